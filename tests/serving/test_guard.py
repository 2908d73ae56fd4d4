"""Who may connect, and with which options a server does not start."""

from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from softfree.serving.errors import ServingError
from softfree.serving.guard import LOCAL, Guard
from softfree.serving.options import ServeOptions
from softfree.serving.server import check_options, listen, named_models, spool_folder
from softfree_runtime.core.errors import UserError

TOKEN = "a" * 32


def request(method: str = "GET", peer: str = "10.1.1.1", **headers: str) -> Request:
    named = {"host": "127.0.0.1:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in named.items()]
    scope = {"type": "http", "method": method, "headers": raw, "client": (peer, 1), "path": "/", "query_string": b""}
    return Request(scope)


def outcome(guard: Guard, asked: Request) -> str:
    try:
        return guard.who(asked)
    except ServingError as error:
        return error.status


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# clients\npage {TOKEN}\n\nnode {'b' * 16}\n")
    path.chmod(0o600)
    return path


def test_tokens(tokens: Path) -> None:
    guard = Guard(ServeOptions(token_file=tokens, host="0.0.0.0"))
    asked = {
        f"Bearer {TOKEN}": "page", f"bearer {'b' * 16}": "node", f"Bearer {TOKEN}a": "unauthorized",
        f"Bearer {TOKEN[:-1]}": "unauthorized", "Bearer": "unauthorized", "": "unauthorized",
        f"Basic {TOKEN}": "unauthorized", "Bearer \xe9": "unauthorized",
    }  # fmt: skip
    assert {header: outcome(guard, request(authorization=header)) for header in asked} == asked
    assert outcome(guard, request("POST", authorization=f"Bearer {TOKEN}", origin="https://evil")) == "page"


def test_every_token_is_compared_in_constant_time(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def digest(first: bytes, second: bytes) -> bool:
        compared.append((len(first), len(second)))
        return first == second

    guard = Guard(ServeOptions(token_file=tokens))
    monkeypatch.setattr("softfree.serving.guard.hmac.compare_digest", digest)
    assert guard.named(TOKEN) == "page"
    assert compared == [(32, 32)] * 2  # also after the one that fits, and whatever the length of what was given


def test_a_session_is_worth_what_its_token_is(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(ServeOptions(token_file=tokens))
    cookie = f"softfree_session={guard.session('page')}"
    assert outcome(guard, request(cookie=cookie)) == "page"
    assert outcome(guard, request("POST", cookie=cookie, sec_fetch_site="same-origin")) == "page"
    assert outcome(guard, request("POST", cookie=cookie, sec_fetch_site="cross-site")) == "forbidden"
    assert outcome(guard, request("POST", cookie=cookie, origin="http://127.0.0.1:8000")) == "page"
    assert outcome(guard, request("POST", cookie=cookie, origin="null")) == "forbidden"
    packed, until, seal = guard.session("page").split(".")
    forged = (f"{packed}.{int(until) + 1}.{seal}", f"{guard.session('node').split('.')[0]}.{until}.{seal}", "a.b", "")
    assert {outcome(guard, request(cookie=f"softfree_session={value}")) for value in forged} == {"unauthorized"}
    monkeypatch.setattr("softfree.serving.guard.time.time", lambda: float(until) + 1)
    assert outcome(guard, request(cookie=cookie)) == "unauthorized"


def test_a_name_from_the_proxy_and_from_nobody_else() -> None:
    guard = Guard(ServeOptions(trusted_header="X-Forwarded-User", trusted_proxy=["10.0.0.1"], host="10.0.0.2"))
    assert outcome(guard, request(peer="10.0.0.1", x_forwarded_user="ada")) == "ada"
    assert outcome(guard, request(peer="10.0.0.3", x_forwarded_user="ada")) == "unauthorized"
    assert outcome(guard, request(peer="10.0.0.1")) == "unauthorized"
    assert outcome(guard, request("POST", "10.0.0.1", x_forwarded_user="ada", origin="https://evil")) == "forbidden"
    assert outcome(guard, request(peer="10.0.0.1", x_forwarded_user="a\tb" + "c" * 300)) == "a_b" + "c" * 197


def test_a_local_server_is_open_to_its_own_pages_only() -> None:
    guard = Guard(ServeOptions(hostname=["reading.lan"]))
    assert outcome(guard, request("POST")) == LOCAL
    assert outcome(guard, request("POST", origin="http://localhost:8000")) == LOCAL
    assert outcome(guard, request("POST", origin="https://evil.example")) == "forbidden"
    for host in ("localhost:1", "[::1]:8000", "Reading.lan"):
        guard.refuse_other_hosts(request(host=host).headers)
    for host in ("evil.example", "localhost.evil.example", ""):
        with pytest.raises(ServingError, match="not known by this name"):
            guard.refuse_other_hosts(request(host=host).headers)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"host": "0.0.0.0"}, "add --token-file"),
        ({"host": "::"}, "add --token-file"),
        ({"host": "hospital.example"}, "add --token-file"),
        ({"token_file": Path("none")}, "cannot be read"),
        ({"workers": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
        ({"max_batch": 0}, "--max-batch 0"),
        ({"queue": 0}, "--queue 0"),
        ({"time_limit": 0.0}, "--time-limit"),
        ({"max_upload": float("nan")}, "--max-upload"),
        ({"memory_limit": -1.0}, "--memory-limit"),
        ({"hold": -1.0}, "--hold"),
        ({"port": 70000}, "--port"),
        ({"allow": [Path("none")]}, "--allow none"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_options(ServeOptions(**options))


@pytest.mark.parametrize("text", ["page short\n", f"page {TOKEN}\npage {TOKEN}\n", f"{TOKEN}\n", "# none\n", "a b c\n"])
def test_files_of_tokens_that_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(UserError, match="--token-file") as caught:
        Guard(ServeOptions(token_file=tmp_path / "tokens"))
    assert TOKEN not in str(caught.value)


def test_names_of_models(tmp_path: Path) -> None:
    for name in ("chest/model.onnx", "fundus.onnx", "a b/full", "chest2/model.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    paths = [str(tmp_path / name) for name in ("chest/model.onnx", "fundus.onnx", "a b")]
    assert list(named_models([*paths, f"Other={paths[0]}"])) == ["chest", "fundus", "a_b", "Other"]
    with pytest.raises(UserError, match=r"two models have the name chest; give one another name: chest_2="):
        named_models([paths[0], paths[0]])
    with pytest.raises(UserError, match="does not exist"):
        named_models([str(tmp_path / "none")])


def test_a_port_that_another_program_has() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(UserError, match="choose another port"):
        listen("127.0.0.1", first.getsockname()[1])


def test_servers_that_share_a_store_need_a_spool() -> None:
    with pytest.raises(UserError, match="--spool"):
        spool_folder(ServeOptions(store="postgresql://host/name"))
    assert spool_folder(ServeOptions(store="a/b.sqlite")) == Path("a/spool")
