"""A vendor that does not work, met by three real hosts over one store: how many calls reach it, and what the rest is told.

The hosts are on-prem, Azure Functions and Lambda, a process each; the vendor counts what comes to it.
"""

import http.server
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hosts
import pytest

pytestmark = pytest.mark.verify

DATA = Path(__file__).parents[1] / "data" / "vendors"
ONE_EACH = [*hosts.COMMANDS["aws"][:-1], "1"]
"""Lambda with one environment: three hosts are three processes."""
PAGE = b"<html><h1>404</h1> nothing to be found here; try another price"
MODES = ("a page with 404", "a page with 503", "hangs up", "busy")
SHORTEST = 4.0
"""Seconds: no breaker may be probed sooner, not even one that a busy service has opened (five)."""
WAIT = 4
"""Seconds after which a vendor that is down says that it may be asked again."""


class Vendor(http.server.ThreadingHTTPServer):
    """Answers as `mode` says, `seconds` late; `reached` is when each call came (s)."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, url):
        self.mode, self.seconds, self.wait, self.reached = "well", 0.0, 0, []
        port = int(url.rpartition(":")[2].partition("/")[0])
        super().__init__(("127.0.0.1", port), Offers)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        """A host that goes away in the middle is no news."""


class Offers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        vendor = self.server
        self.rfile.read(int(self.headers.get("content-length", 0)))
        vendor.reached.append(time.monotonic())
        time.sleep(vendor.seconds)
        match vendor.mode:
            case "a page with 404":
                self._answer(404, PAGE, "text/html")
            case "a page with 503":
                self._answer(503, PAGE, "text/html")
            case "busy":
                self._answer(429, b"{}", "application/json")
            case "down":
                self._answer(503, b"{}", "application/json", {"retry-after": str(vendor.wait)})
            case "hangs up":
                self.close_connection = True
            case _:
                self._answer(200, b'{"accepted": false}', "application/json")

    def _answer(self, status, body, kind, headers=()):
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def market(tmp_path, monkeypatch):
    """The domain and its vendor, who is well known: a breaker that has opened before would stay open for minutes."""
    monkeypatch.setitem(hosts.COMMANDS, "aws", ONE_EACH)
    with hosts.Domain(tmp_path, data=DATA) as domain:
        vendor = Vendor(domain.away)
        try:
            _, token = domain.start("onprem", "buying")
            assert offer(domain, "onprem", token, 1).status == 200
            vendor.reached.clear()
            yield domain, vendor
        finally:
            vendor.shutdown()
            vendor.server_close()


def offer(domain, host, token, price):
    return domain.send(host, "POST", "/v1/tools/offer", token, {"arguments": {"price": price}})


def breaker(domain):
    key = domain.operator_key("onprem")
    rows = domain.send("onprem", "GET", "/v1/breakers", key).json["data"]
    return next(row for row in rows if row["breaker"] == "tool")


def bursts(times, apart):
    """How many calls came together: two belong to one burst that are not so many seconds apart."""
    found = []
    for number, came in enumerate(times):
        if number and came - times[number - 1] < apart:
            found[-1] += 1
        else:
            found.append(1)
    return found


@pytest.mark.parametrize("mode", MODES)
def test_three_hundred_offers_of_three_hosts_to_a_dead_vendor_reach_it_at_most_five_times(market, mode):
    domain, vendor = market
    _, token = domain.start("onprem", "buying")
    vendor.mode = mode

    def insist(host):
        """An agent that does not give up: at each host a hundred offers, each a little better."""
        return [offer(domain, host, token, 100 + number / 10) for number in range(100)]

    with ThreadPoolExecutor(3) as pool:
        answers = [answer for some in pool.map(insist, domain.urls) for answer in some]
    codes = Counter(answer.json["code"] for answer in answers)
    first, *probes = bursts(vendor.reached, SHORTEST)
    print(f"{mode}: {len(vendor.reached)} of 300 reached it, {dict(codes)}")  # noqa: T201 - a figure
    assert first <= 5
    assert set(probes) <= {1}, "whom this machine keeps so long that it may be probed, one prober looks for"
    assert set(codes) <= {"upstream_error", "upstream_timeout", "circuit_open"}
    assert sum(codes.values()) == 300
    for answer in answers:
        assert b"<h" not in answer.body
        assert int(answer.headers["retry-after"][0]) >= 1
        assert answer.json["retry_at"] > "2026"
        assert "Do not retry before" in answer.json["detail"]


def test_of_two_hundred_offers_at_the_half_open_moment_one_reaches_it(market):
    domain, vendor = market
    tokens = [domain.start(host, "buying")[1] for host in domain.urls]
    vendor.mode, vendor.wait = "down", WAIT
    for host, token in zip(domain.urls, tokens, strict=True):  # so that each of them knows
        while offer(domain, host, token, 1).json["code"] != "circuit_open":
            pass
    vendor.seconds = 1.0
    vendor.reached.clear()
    until = time.monotonic() + 30
    while (row := breaker(domain))["state"] == "open" and row["retry_at"] > now():
        assert time.monotonic() < until
        time.sleep(0.02)
    with ThreadPoolExecutor(200) as pool:
        whole = list(zip(domain.urls, tokens, strict=True)) * 67
        answers = list(pool.map(lambda each: offer(domain, *each, 2), whole[:200]))
    codes = Counter(answer.json["code"] for answer in answers)
    print(f"half open: {len(vendor.reached)} of 200 reached it, {dict(codes)}")  # noqa: T201 - a figure
    probes = bursts(vendor.reached, WAIT)
    assert set(probes) == {1}, "at each half-open moment one; a slow machine may see another"
    assert codes.pop("circuit_open") == 200 - len(probes)
    assert set(codes) <= {"upstream_error", "upstream_timeout"}


def now():
    """The time as the gateway writes it."""
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


def test_a_vendor_that_flaps_each_second_does_not_make_the_breaker_thrash(market):
    domain, vendor = market
    tokens = dict(zip(domain.urls, [domain.start(host, "buying")[1] for host in domain.urls], strict=True))
    opened, began, states, dead = breaker(domain)["opened"], time.monotonic(), [], 0
    while (passed := time.monotonic() - began) < 30:
        vendor.mode = "a page with 503" if int(passed) % 2 else "well"
        for host, token in tokens.items():
            dead += offer(domain, host, token, passed).status == 502
        row = breaker(domain)
        states += [row["state"]] if [row["state"]] != states[-1:] else []
        time.sleep(0.05)
    print(f"flapping for 30 s: {states}, {dead} failures met of {len(vendor.reached)} calls")  # noqa: T201 - a figure
    assert breaker(domain)["opened"] - opened <= 2
    assert dead <= 12
