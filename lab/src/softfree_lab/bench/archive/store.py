"""A local server of S3 whose answers wait 10 ms, against the same files on disk."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from softfree_lab.bench.archive.setting import Bench, Measured


def store(bench: Bench) -> Iterator[Measured]:
    """A local server of S3 whose answers wait 10 ms, against the same files on disk."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    folder, count = bench.few(), bench.few_count
    local, _ = bench.predict([str(folder)], bench.scratch / "on-disk")
    backend = DomainDispatcherApplication(create_backend_app)

    def slow(environment: Any, start_response: Any) -> Any:
        time.sleep(0.010)
        return backend(environment, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would write a line for each request
    server = make_server("127.0.0.1", 0, slow, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}
    try:
        import fsspec

        system = fsspec.filesystem("s3")
        system.mkdir("archive")
        system.put(str(folder), "archive/images", recursive=True)
        remote, _ = bench.predict(["s3://archive/images"], bench.scratch / "in-store")
    finally:
        server.shutdown()
        thread.join()
    yield Measured(f"{count:,} images on disk, whole command", count / local, "images/s")
    yield Measured("the same in S3 with 10 ms latency, server on this machine", count / remote, "images/s")
