"""Is a server reachable? Against real sockets on this machine."""

import http.server
import socket
import threading

import pytest

from hrm_bench import network


@pytest.fixture
def silent():
    """A server that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_answers_is_reachable_even_if_it_refuses():
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)  # 501 to everything
    threading.Thread(target=server.handle_request, daemon=True).start()
    assert network.is_reachable(f"http://127.0.0.1:{server.server_port}")
    server.server_close()


def test_a_closed_port_and_a_silent_server_are_not_reachable(silent, monkeypatch):
    monkeypatch.setattr(network, "TIMEOUT", 0.2)
    assert not network.is_reachable(silent)
    assert not network.is_reachable("http://127.0.0.1:9")
    assert not network.is_reachable("http://no.such.host.invalid")
