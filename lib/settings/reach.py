"""Where a server is, by the text of its host or address: no name is looked up. Pure."""

import re
from contextlib import suppress
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

# RFC 1918, RFC 4193 and link-local. `is_private` covers many more, such as documentation's.
_PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
_PRIVATE_NETWORKS_6 = ("fc00::/7", "fe80::/10")
# A number is an address, in a spelling that resolvers accept: 134744072 is 8.8.8.8.
_NAME_WITHOUT_DOT = r"(?ai)[a-z_][\w-]*"


class Reach(IntEnum):
    """How far away a server is. The greatest of several counts."""

    THIS_MACHINE = 0
    PRIVATE = 1
    """A private network, or a name that only a local resolver knows."""
    ANYWHERE = 2


def reach_of(host: str) -> Reach:
    """The reach of a host's name, its address, or the directory of a socket; empty is a socket."""
    if not host or host[0] in "/@" or host.lower() == "localhost":
        return Reach.THIS_MACHINE
    if address := _address(host):
        return _reach_of_address(address)
    return Reach.PRIVATE if re.fullmatch(_NAME_WITHOUT_DOT, host) else Reach.ANYWHERE


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a text is; of an IPv4-mapped one the IPv4 address."""
    with suppress(ValueError):
        address = ip_address(host)
        return getattr(address, "ipv4_mapped", None) or address
    return None


def _reach_of_address(address: IPv4Address | IPv6Address) -> Reach:
    if address.is_loopback:
        return Reach.THIS_MACHINE
    networks = _PRIVATE_NETWORKS if address.version == 4 else _PRIVATE_NETWORKS_6
    private = any(address in ip_network(network) for network in networks)
    return Reach.PRIVATE if private else Reach.ANYWHERE
