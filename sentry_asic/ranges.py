"""Which addresses a scan asks: ranges as people write them, what is left out of them, and that they are ours. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from garrison.faults import BadInput

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_ADDRESSES = 1 << 16
MAX_IN_ALL = 1 << 18
_PRIVATE = "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 169.254.0.0/16 127.0.0.0/8 fc00::/7 ::1/128"
PRIVATE: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in _PRIVATE.split())
_HINT = "such as 192.168.1.0/24, 10.0.0.10-10.0.0.90 or 10.0.0.7"


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Addresses from `first` to `last`, both among them, as numbers; of one version of IP."""

    version: int
    first: int
    last: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What a scan asks: each address once, in order."""

    spans: tuple[Span, ...] = ()

    @property
    def count(self) -> int:
        return sum(span.count for span in self.spans)

    def hosts(self) -> Iterator[str]:
        for span in self.spans:
            for number in range(span.first, span.last + 1):
                yield str(_address(span.version, number))


def plan(texts: Iterable[str], exclude: Iterable[str] = (), networks: Sequence[Network] = PRIVATE) -> Plan:
    """Raises BadInput: no range, outside `networks`, or too large."""
    spans = _merged(span_of(text, networks) for text in texts)
    if not spans:
        raise BadInput("no range to scan", hint=f"{_HINT}; or `scan.ranges` in the sentry's settings")
    for out in _merged(parse(text, whole=True) for text in exclude):
        spans = [part for span in spans for part in _without(span, out)]
    found = Plan(tuple(spans))
    if found.count > MAX_IN_ALL:
        raise BadInput(f"{found.count} addresses are more than {MAX_IN_ALL}", hint="scan in several turns")
    return found


def named(texts: Iterable[str], ranges: Mapping[str, Sequence[str]]) -> list[str]:
    """The ranges that are meant: a name in the settings stands for all of its ranges. Nothing given: all that are named."""
    given = list(texts) or list(ranges)
    return [one for text in given for one in ranges.get(text, (text,))]


def range_of(host: str, ranges: Mapping[str, Sequence[str]]) -> str:
    """The name of the first range that the address is in; empty when it is in none."""
    here = parse(host)
    for name, texts in ranges.items():
        for span in map(parse, texts):
            if span.version == here.version and span.first <= here.first <= span.last:
                return name
    return ""


def networks_of(guarded: Iterable[str]) -> tuple[Network, ...]:
    """Where a scan may go: private networks, and what the owner wrote into the guard file."""
    return (*PRIVATE, *(ipaddress.ip_network(text) for text in guarded))


def span_of(text: str, networks: Sequence[Network] = PRIVATE) -> Span:
    """One range. Raises BadInput for what is none, is not within one of the networks, or is larger than a /16."""
    span = parse(text)
    for network in networks:
        within = int(network.network_address) <= span.first and span.last <= int(network.broadcast_address)
        if within and network.version == span.version:
            break
    else:
        raise BadInput(
            f"{text.strip()} is not in a private network",
            hint="a scan stays in your own networks; `scan_networks` in guard.toml allows others",
        )
    if span.count > MAX_ADDRESSES:
        raise BadInput(f"{text.strip()} has {span.count} addresses, more than {MAX_ADDRESSES}", hint="scan a /16 or smaller")
    return span


def parse(text: str, *, whole: bool = False) -> Span:
    """A network, first-last, or one address. Without `whole` a network's own address and its broadcast are left out."""
    given = text.strip()
    try:
        if "/" in given:
            network = ipaddress.ip_network(given, strict=False)
            first, last = int(network.network_address), int(network.broadcast_address)
            if network.num_addresses > 2 and not whole:
                first, last = first + 1, last - (network.version == 4)
            return Span(network.version, first, last)
        begin, dash, end = given.partition("-")
        low = ipaddress.ip_address(begin.strip())
        high = ipaddress.ip_address(end.strip()) if dash else low
    except ValueError as error:
        raise BadInput(f"{text[:80]!r} is no range of addresses", hint=_HINT) from error
    if low.version != high.version or int(low) > int(high):
        raise BadInput(f"{text[:80]!r} ends before it begins", hint=_HINT)
    return Span(low.version, int(low), int(high))


def order_of(address: str) -> tuple[int, int, str]:
    """Sorts addresses as people count them; "host:port" too."""
    host = address[1:].partition("]")[0] if address.startswith("[") else address
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return 9, 0, address
    return found.version, int(found), address


def _address(version: int, number: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)


def _merged(spans: Iterable[Span]) -> list[Span]:
    found: list[Span] = []
    for span in sorted(spans):
        if found and found[-1].version == span.version and span.first <= found[-1].last + 1:
            found[-1] = Span(span.version, found[-1].first, max(found[-1].last, span.last))
        else:
            found.append(span)
    return found


def _without(span: Span, out: Span) -> list[Span]:
    if out.version != span.version or out.last < span.first or span.last < out.first:
        return [span]
    parts = (Span(span.version, span.first, out.first - 1), Span(span.version, out.last + 1, span.last))
    return [part for part in parts if part.first <= part.last]
