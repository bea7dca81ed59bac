"""Checks whether a server is reachable, so that no library waits minutes for one that is not."""

import threading
import urllib.error
import urllib.request

TIMEOUT = 5.0  # seconds


def is_reachable(url: str) -> bool:
    """Return whether a server answers at a URL within TIMEOUT, which includes looking up its name."""
    answered = threading.Event()

    def request() -> None:
        try:
            urllib.request.urlopen(url, timeout=TIMEOUT).close()
        except urllib.error.HTTPError:
            pass  # a refusal is an answer too
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=request, daemon=True)  # the look-up of a name has no time-out of its own
    thread.start()
    thread.join(TIMEOUT)
    return answered.is_set()
