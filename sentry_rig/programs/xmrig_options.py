"""XMRig's command line, option by option: what an owner may give, and what takes the program out of our hands.

Source of names and arities: `short_options` and `options` in src/core/config/Config_platform.h of XMRig 6.
The list is closed on purpose. XMRig reads its options with getopt_long, which takes any unambiguous beginning
("--http-acc=…", "--conf …") and bundles of short ones ("-kB"): what we do not know letter by letter we could not
show to the guard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from garrison.faults import BadInput, NotAllowed

_SHORT = {
    "a": "algo",
    "k": "keepalive",
    "o": "url",
    "O": "userpass",
    "p": "pass",
    "r": "retries",
    "R": "retry-pause",
    "t": "threads",
    "u": "user",
    "v": "av",
    "x": "proxy",
    "B": "background",
    "c": "config",
    "l": "log-file",
    "S": "syslog",
    "h": "help",
    "V": "version",
}

_FLAGS = frozenset(
    [
        "1gb-pages",
        "cache-qos",
        "cpu-no-yield",
        "cuda",
        "daemon",
        "dns-ipv6",
        "keepalive",
        "nicehash",
        "no-color",
        "no-cpu",
        "no-dmi",
        "no-huge-pages",
        "no-hugepages",
        "no-nvml",
        "no-rdmsr",
        "no-title",
        "no-yield",
        "opencl",
        "opencl-no-cache",
        "pause-on-battery",
        "randomx-1gb-pages",
        "randomx-cache-qos",
        "randomx-no-numa",
        "randomx-no-rdmsr",
        "tls",
        "verbose",
    ]
)
_VALUED = frozenset(
    [
        "algo",
        "argon2-impl",
        "asm",
        "av",
        "coin",
        "cpu-affinity",
        "cpu-argon2-impl",
        "cpu-max-threads-hint",
        "cpu-memory-pool",
        "cpu-priority",
        "cuda-bfactor-hint",
        "cuda-bsleep-hint",
        "cuda-devices",
        "daemon-poll-interval",
        "dns-ttl",
        "donate-level",
        "donate-over-proxy",
        "health-print-time",
        "hugepage-size",
        "max-cpu-usage",
        "opencl-devices",
        "opencl-platform",
        "pass",
        "pause-on-active",
        "print-time",
        "proxy",
        "randomx-init",
        "randomx-mode",
        "retries",
        "retry-pause",
        "rig-id",
        "threads",
        "tls-fingerprint",
        "url",
        "user",
        "user-agent",
        "userpass",
    ]
)
_MAYBE_VALUED = frozenset({"randomx-wrmsr", "wrmsr"})  # a value only with "="

_OURS = "the sentry chooses this itself"
_LEAVES = "the program would leave the sentry's hands"
_NOT_MINING = "this does not mine to your pools"
_REFUSED = {
    "api-id": _OURS,
    "api-worker-id": _OURS,
    "background": _LEAVES,
    "bench": _NOT_MINING,
    "benchmark": _NOT_MINING,
    "config": "a file could name other pools; give arguments instead",
    "cuda-loader": "it would load a library from outside the pinned archive",
    "data-dir": _OURS,
    "dry-run": _NOT_MINING,
    "hash": _NOT_MINING,
    "help": _NOT_MINING,
    "http-access-token": _OURS,
    "http-enabled": _OURS,
    "http-host": _OURS,
    "http-no-restricted": _OURS,
    "http-port": _OURS,
    "log-file": "the sentry keeps the log",
    "opencl-loader": "it would load a library from outside the pinned archive",
    "seed": _NOT_MINING,
    "self-select": "another node would choose what is mined",
    "spend-secret-key": "a wallet's secret key has no place on a command line",
    "stress": _NOT_MINING,
    "submit": _NOT_MINING,
    "submit-to-origin": "another node would choose what is mined",
    "syslog": "the sentry keeps the log",
    "title": _OURS,
    "tls-cert": _OURS,
    "tls-cert-key": _OURS,
    "tls-gen": _OURS,
    "token": _NOT_MINING,
    "verify": _NOT_MINING,
    "version": _NOT_MINING,
    "export-topology": _NOT_MINING,
    "print-platforms": _NOT_MINING,
}
_POOL = re.compile(
    r"(?:(?:stratum\+tcp|stratum\+ssl|daemon\+http|daemon\+https)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})"
)


def options(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(long name, value or None) of each option, in order. Raises BadInput, NotAllowed."""
    given = iter(arguments)
    for argument in given:
        if "\0" in argument:
            raise BadInput("an argument holds a zero byte")
        if argument.startswith("--") and len(argument) > 2:
            name, equals, value = argument[2:].partition("=")
            _known(name, f"--{name}")
            if name in _FLAGS:
                if equals:
                    raise BadInput(f"--{name} takes no value")
                yield name, None
            elif name in _MAYBE_VALUED:
                yield name, value if equals else None
            else:
                yield name, value if equals else _next(given, f"--{name}")
        elif argument.startswith("-") and argument not in {"-", "--"}:
            letter = argument[1]
            name = _SHORT.get(letter, "")
            _known(name, f"-{letter}")
            if name in _FLAGS:
                if len(argument) > 2:
                    raise BadInput(f"write the options of {argument} one by one")
                yield name, None
            else:
                yield name, argument[2:] or _next(given, f"-{letter}")
        else:
            raise BadInput(f"{argument!r} belongs to no option", hint="each value follows its option")


def pool_place(url: str) -> str:
    """ "host:port" as XMRig's API names the connection. Raises BadInput for what XMRig would not take as a pool.

    A pool it does not take is no small matter: without a valid one it falls back to a config file, and the stock
    config's pool is its author's.
    """
    match = _POOL.fullmatch(url)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise BadInput(
            f"{url!r} is no pool address that XMRig takes", hint="host:port, with stratum+tcp:// or stratum+ssl:// before it"
        )
    return f"{match['host'].strip('[]')}:{int(match['port'])}"


def _known(name: str, shown: str) -> None:
    if name in _REFUSED:
        raise NotAllowed(f"{shown} may not be given: {_REFUSED[name]}")
    if name not in _FLAGS and name not in _VALUED and name not in _MAYBE_VALUED:
        raise BadInput(
            f"XMRig's driver does not know the option {shown}", hint="write options out in full, as `xmrig --help` has them"
        )


def _next(given: Iterator[str], shown: str) -> str:
    value = next(given, None)
    if value is None:
        raise BadInput(f"{shown} needs a value")
    if "\0" in value:
        raise BadInput(f"the value of {shown} holds a zero byte")
    return value
