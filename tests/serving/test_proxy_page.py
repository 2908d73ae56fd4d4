"""The page about proxies: its nginx configuration with a real nginx, and a sign-on of two lines for oauth2-proxy."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving.hospital.support import free_port

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "proxy.md"


class SignOn(BaseHTTPRequestHandler):
    """oauth2-proxy: who has the cookie is Dr. No."""

    def do_GET(self) -> None:
        signed_on = "session=yes" in self.headers.get("Cookie", "")
        self.send_response(202 if signed_on else 401)
        if self.path.startswith("/oauth2/sign_in"):
            self.send_header("X-Page", "sign-in")
        if signed_on:
            self.send_header("X-Auth-Request-User", "no")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Echo(BaseHTTPRequestHandler):
    """softfree: tells what reached it."""

    def do_GET(self) -> None:
        names = ("X-Forwarded-User", "Authorization", "Host")
        body = "\n".join(f"{name}={self.headers.get(name, '')}" for name in names).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Start nginx with the page's lines; yields the addresses for people and for programs."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    folder = tmp_path_factory.mktemp("nginx")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    sign_on, softfree = serve(SignOn), serve(Echo)
    people, programs = free_port(), free_port()
    (block,) = re.findall(r"^```nginx\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)
    for old, new in {
        "listen 443 ssl": f"listen 127.0.0.1:{people} ssl",
        "listen 8443 ssl": f"listen 127.0.0.1:{programs} ssl",
        "/etc/ssl/softfree.pem": str(certificate),
        "/etc/ssl/private/softfree.key": str(key),
        "127.0.0.1:8000": f"127.0.0.1:{softfree.server_address[1]}",
        "127.0.0.1:4180": f"127.0.0.1:{sign_on.server_address[1]}",
    }.items():
        assert old in block
        block = block.replace(old, new)
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in
                          ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))  # fmt: skip
    (folder / "nginx.conf").write_text(
        f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}\n{block}}}\n"
    )
    process = subprocess.Popen([program, "-c", folder / "nginx.conf", "-p", folder], stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 10
        while True:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            try:
                httpx.get(f"https://127.0.0.1:{people}/", verify=False)
                break
            except httpx.TransportError:
                assert time.monotonic() < end
                time.sleep(0.1)
        yield f"https://127.0.0.1:{people}", f"https://127.0.0.1:{programs}"
    finally:
        process.terminate()
        process.wait(10)
        sign_on.shutdown()
        softfree.shutdown()


def ask(address: str, **headers: str) -> httpx.Response:
    return httpx.get(address, headers={name.replace("_", "-"): value for name, value in headers.items()}, verify=False)


def test_people_are_signed_on_and_cannot_be_somebody_else(nginx: tuple[str, str]) -> None:
    people, _ = nginx
    stranger = ask(f"{people}/v1/models", X_Forwarded_User="boss")
    assert (stranger.status_code, stranger.headers.get("X-Page")) == (401, "sign-in")
    known = ask(f"{people}/v1/models", Cookie="session=yes", X_Forwarded_User="boss", Authorization="Bearer guess")
    assert known.text.splitlines() == [
        "X-Forwarded-User=no",
        "Authorization=",
        f"Host={people.removeprefix('https://')}",
    ]
    assert "max-age" in known.headers["Strict-Transport-Security"]


def test_programs_bring_a_token_and_no_name(nginx: tuple[str, str]) -> None:
    _, programs = nginx
    answer = ask(f"{programs}/v1/models", Authorization="Bearer token", X_Forwarded_User="boss")
    assert answer.text.splitlines()[:2] == ["X-Forwarded-User=", "Authorization=Bearer token"]
    assert ask(f"{programs}/metrics", Authorization="Bearer token").status_code in (
        403,
        404,
    )  # nginx, which has no such file


def test_large_uploads_pass(nginx: tuple[str, str]) -> None:
    people, _ = nginx
    answer = httpx.post(f"{people}/v1/models", content=bytes(5 << 20), headers={"Cookie": "session=yes"}, verify=False)
    assert answer.status_code == 200


def test_old_protocols_are_refused(nginx: tuple[str, str]) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(nginx[0], verify=context)
