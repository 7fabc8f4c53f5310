import pytest

from lib.settings.reach import Reach, reach_of
from tests.kit import parsed

HERE, PRIVATE, ANYWHERE = Reach


@pytest.mark.parametrize(
    ("reach", "hosts"),
    [
        (HERE, ("", "localhost", "LocalHost", "/run/postgresql", "@abstract")),
        (HERE, ("127.0.0.1", "127.1.2.3", "127.255.255.255", "::1", "0:0::1")),
        (HERE, ("::ffff:127.0.0.1", "::ffff:7f00:1")),
        (PRIVATE, ("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.1.1")),
        (PRIVATE, ("fd00::1", "fc00::1", "fe80::1", "fe80::1%eth0", "::ffff:10.0.0.1")),
        (PRIVATE, ("db", "postgres", "POSTGRES", "db-1", "my_db", "d2")),
        (ANYWHERE, ("ep-1.eu-central-1.aws.neon.tech", "db.internal", "db.", "a.localhost")),
        (ANYWHERE, ("localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1.nip.io")),
        (ANYWHERE, ("8.8.8.8", "172.32.0.1", "172.15.0.1", "100.64.0.1", "192.0.2.1", "11.0.0.1")),
        (ANYWHERE, ("2001:db8::1", "2600::1", "::ffff:8.8.8.8", "0.0.0.0", "::", "64:ff9b::1")),
        (ANYWHERE, ("134744072", "0x8080808", "0x7f000001", "127.1", "010.0.0.1", "1db")),
        (ANYWHERE, ("größe", "a b", "db\n", "-db", "a:b", "[::1]")),
    ],
)
def test_a_host_is_judged_by_its_text(reach: Reach, hosts: tuple[str, ...]) -> None:
    assert {host: reach_of(host) for host in hosts} == dict.fromkeys(hosts, reach)


@pytest.mark.parametrize(
    ("url", "environ", "reach"),
    [
        ("postgresql:///app", {}, HERE),
        ("postgresql:///app?host=/tmp", {}, HERE),
        ("postgresql:///app", {"PGHOST": "db.example"}, ANYWHERE),
        ("postgresql:///app", {"PGHOSTADDR": "10.0.0.9"}, PRIVATE),
        ("postgresql://localhost/app", {"PGHOSTADDR": "8.8.8.8"}, ANYWHERE),
        ("postgresql://localhost/app?hostaddr=10.0.0.9", {}, PRIVATE),
        ("postgresql://db.example/app?hostaddr=127.0.0.1", {}, ANYWHERE),
        ("postgresql://db/app?hostaddr=127.0.0.1", {}, PRIVATE),
        ("postgresql://localhost,127.0.0.1,[::1]/app", {}, HERE),
        ("postgresql://localhost,db/app", {}, PRIVATE),
        ("postgresql://localhost,db.example/app", {}, ANYWHERE),
        ("postgresql://db.example:1,localhost:2/app", {}, ANYWHERE),
        ("postgresql://[fd00::1]/app", {}, PRIVATE),
        ("postgresql://localhost/app?host=db.example", {}, ANYWHERE),
        ("postgresql://a,b/app?hostaddr=127.0.0.1,8.8.8.8", {}, ANYWHERE),
    ],
)
def test_the_farthest_server_of_a_url_counts(
    url: str, environ: dict[str, str], reach: Reach
) -> None:
    assert parsed(url, **environ).reach is reach
