"""Tests of `llmproxy.commands.target`."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from llmproxy.commands.failures import Unreachable
from llmproxy.commands.target import DEFAULT_CONFIGS, Target, find_target

TOKEN = "correct-horse-battery"


def target(
    folder: Path,
    admin: str = "",
    *,
    url: str = "",
    token: str = "",
    named: bool = True,
    environ: dict[str, str] | None = None,
) -> Target:
    """Find the target with a configuration whose ``admin`` is given, if it is.

    Args:
        folder: Where files go.
        admin: The section, in YAML's flow style.
        url: That of ``--url``.
        token: What is in the file of ``--token-file``.
        named: Whether the configuration is named by ``--config``, else by the environment.
        environ: The environment.
    """
    config, token_file = folder / "x.yaml", folder / "token"
    if admin:
        config.write_text(f"admin: {admin}\n")
    if token:
        token_file.write_text(token)
    if admin and not named:
        environ = {**(environ or {}), "LLMPROXY_CONFIG": str(config)}
    return find_target(
        config_file=str(config) if admin and named else "",
        url=url,
        token_file=str(token_file) if token else "",
        environ=environ or {},
    )


def section(listen: str) -> str:
    """Give an enabled section that listens there."""
    return f"{{enabled: true, token: {TOKEN}, listen: '{listen}'}}"


@pytest.mark.parametrize(
    ("listen", "shown"),
    [
        ("127.0.0.1:8010", "http://127.0.0.1:8010"),
        (":8010", "http://127.0.0.1:8010"),
        ("0.0.0.0:8010", "http://127.0.0.1:8010"),
        ("[::]:8010", "http://[::1]:8010"),
        ("[fd00::7]:8010", "http://[fd00::7]:8010"),
        ("tcp:8010", "http://127.0.0.1:8010"),
        ("tcp:port=8010:interface=10.1.2.3", "http://10.1.2.3:8010"),
        (r"tcp6:8010:interface=\:\:", "http://[::1]:8010"),
        ("unix:/run/llmproxy/admin.sock", "unix:/run/llmproxy/admin.sock"),
        ("unix:/run/llmproxy/admin.sock:mode=600", "unix:/run/llmproxy/admin.sock"),
    ],
)
def test_the_listener_is_reached_from_this_machine(tmp_path: Path, listen: str, shown: str) -> None:
    """All addresses are reached by loopback."""
    found = target(tmp_path, section(listen))
    assert str(found) == shown
    assert found.token == TOKEN


def test_without_a_listener_it_is_the_default(tmp_path: Path) -> None:
    """As the daemon has it."""
    found = target(tmp_path, f"{{enabled: true, token: {TOKEN}}}")
    assert str(found) == "http://127.0.0.1:8010"


@pytest.mark.parametrize("listen", ["systemd:domain=INET:index=0", "127.0.0.1:0", "tcp:0"])
def test_a_listener_that_tells_no_address_needs_the_url(tmp_path: Path, listen: str) -> None:
    """It is said so; and with the URL the token is still that of the named file."""
    with pytest.raises(click.UsageError, match="want --url"):
        target(tmp_path, section(listen))
    found = target(tmp_path, section(listen), url="http://127.0.0.1:8010")
    assert (str(found), found.token) == ("http://127.0.0.1:8010", TOKEN)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://gateway", "http://gateway:80"),
        ("https://gateway.example.org/", "https://gateway.example.org:443"),
        ("https://gateway:8443/llm/admin/", "https://gateway:8443/llm"),
        ("http://[::1]:8010", "http://[::1]:8010"),
        ("unix:/run/admin.sock", "unix:/run/admin.sock"),
    ],
)
def test_a_url_with_a_token(tmp_path: Path, url: str, shown: str) -> None:
    """No configuration is read."""
    found = target(tmp_path, url=url, token=f"{TOKEN}\n")
    assert (str(found), found.token) == (shown, TOKEN)


@pytest.mark.parametrize(
    "url",
    [
        "gateway:8010",
        "ftp://gateway",
        "http://",
        "http://me:hunter2@gateway",
        "http://gateway:99999",
        "http://gateway/?a",
        "http://gate way",
        "http://gatewäy",
        "http://gateway/\r\nX-A: b",
    ],
)
def test_what_is_no_url_is_told_and_not_shown(tmp_path: Path, url: str) -> None:
    """A password may stand in it."""
    with pytest.raises(click.UsageError) as caught:
        target(tmp_path, url=url, token=TOKEN)
    assert caught.value.message == ("want --url http://host:port, https://host:port or unix:/path")


def test_whose_token_is_stronger(tmp_path: Path) -> None:
    """That of ``--token-file``, then that of the environment, then that of the configuration."""
    admin = section("127.0.0.1:8010")
    variable = {"LLMPROXY_ADMIN_TOKEN": "from-the-environment"}
    assert target(tmp_path, admin).token == TOKEN
    assert target(tmp_path, admin, environ=variable).token == "from-the-environment"
    assert target(tmp_path, admin, token="from-the-file", environ=variable).token == "from-the-file"
    assert target(tmp_path, url="http://h", environ=variable).token == "from-the-environment"


def test_a_token_does_not_go_where_nobody_sent_it(tmp_path: Path) -> None:
    """With a URL, a configuration that was not named on the command line gives it no token."""
    with pytest.raises(click.UsageError, match="--url needs a token"):
        target(tmp_path, section(":8010"), named=False, url="http://elsewhere")


def test_only_the_admin_section_counts(tmp_path: Path) -> None:
    """Variables, files and keys of other sections may be missing or wrong."""
    config = tmp_path / "x.yaml"
    config.write_text(
        "backends: [{name: a, url: '${NOT_SET}', api_key_file: /nowhere}]\n"
        "unknown: 1\n"
        f"admin: {{enabled: true, token: {TOKEN}, key_secret_file: /nowhere, db_path: 5}}\n"
    )
    found = find_target(config_file=str(config), url="", token_file="", environ={})
    assert found.token == TOKEN


def test_the_token_may_stand_in_a_file_or_the_environment(tmp_path: Path) -> None:
    """As for the daemon."""
    file = tmp_path / "secret"
    file.write_text("from-a-file\n")
    admin = f"{{enabled: true, token_file: {file}}}"
    assert target(tmp_path, admin).token == "from-a-file"
    admin = "{enabled: true, token: '${THE_TOKEN}'}"
    assert target(tmp_path, admin, environ={"THE_TOKEN": "from-there"}).token == "from-there"


def test_a_token_that_cannot_be_read_matters_only_when_it_is_wanted(tmp_path: Path) -> None:
    """Somebody who may not read the daemon's may have another copy of it."""
    admin = f"{{enabled: true, token_file: {tmp_path}/none}}"
    with pytest.raises(click.UsageError, match=r"admin\.token_file: .* cannot be read"):
        target(tmp_path, admin)
    assert target(tmp_path, admin, token="another").token == "another"
    with pytest.raises(click.UsageError, match="NOT_SET"):
        target(tmp_path, "{enabled: true, token: '${NOT_SET}'}")
    assert target(tmp_path, "{enabled: true, token: '${NOT_SET}'}", token="b").token == "b"


def test_an_admin_api_that_is_off(tmp_path: Path) -> None:
    """What to do about it is said."""
    for admin in ("{}", "{enabled: false}", f"{{token: {TOKEN}}}"):
        with pytest.raises(Unreachable, match=r"set admin\.enabled to true") as caught:
            target(tmp_path, admin)
        assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("admin: 5\n", "admin: a number (hidden) is not a mapping"),
        ("admin: {enabled: perhaps}\n", "admin.enabled"),
        ("admin: {enabled: true, token: t, listen: here}\n", "admin.listen is not an address"),
        ("admin: {enabled: true}\n", "there is no token"),
        ("admin: {enabled: true, token: 'two words'}\n", "has characters that none has"),
        ("admin: {enabled: true, token: töken}\n", "has characters that none has"),
        ("- a\n", "is no configuration"),
        ("a: [\n", "is no configuration"),
    ],
)
def test_a_configuration_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    """What is wrong is said, and the status is that of a wrong use."""
    config = tmp_path / "x.yaml"
    config.write_text(text)
    with pytest.raises(click.UsageError) as caught:
        find_target(config_file=str(config), url="", token_file="", environ={})
    assert words in caught.value.message
    assert caught.value.exit_code == 2


def test_no_configuration_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All the ways to name one are told; one that was named must be there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llmproxy.commands.target.DEFAULT_CONFIGS", ("etc/llmproxy.yaml",))
    with pytest.raises(click.UsageError, match=r"no configuration at etc/llmproxy.yaml; want"):
        target(tmp_path)
    with pytest.raises(click.UsageError, match=r"none\.yaml cannot be read: No such file"):
        find_target(config_file="none.yaml", url="", token_file="", environ={})
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/llmproxy.yaml").write_text(f"admin: {section(':8011')}\n")
    assert str(target(tmp_path)) == "http://127.0.0.1:8011"


def test_a_token_file_that_cannot_be_used(tmp_path: Path) -> None:
    """Empty ones, too; ``-`` is a file like others here."""
    with pytest.raises(click.UsageError, match="token is empty"):
        target(tmp_path, url="http://h", token="\n")
    with pytest.raises(click.UsageError, match="--token-file - cannot be read"):
        find_target(config_file="", url="http://h", token_file="-", environ={})


def test_no_repr_shows_the_token(tmp_path: Path) -> None:
    """Nor does the text of it."""
    found = target(tmp_path, url="http://h", token=TOKEN)
    assert TOKEN not in f"{found!r} {found}"


def test_what_is_installed_comes_before_what_lies_here() -> None:
    """A file in a directory that anybody may write to does not decide where a token goes."""
    assert [Path(file).is_absolute() for file in DEFAULT_CONFIGS] == [True, False]
