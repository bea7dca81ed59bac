"""Whether a server is there, before a library waits for it for minutes."""

import threading
import urllib.error
import urllib.request

PATIENCE = 5.0  # seconds


def answers(url: str) -> bool:
    """Whether anything answers at a URL within PATIENCE; the name's look-up, which has no time-out, included."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE).close()
        except urllib.error.HTTPError:
            answered.set()  # a refusal is an answer, too
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answered.is_set()
