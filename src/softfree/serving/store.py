"""Jobs and the audit log in a database."""

from __future__ import annotations

from sqlalchemy import Engine, MetaData

TABLES = MetaData()
"""All tables; modules of the server add theirs when they are imported, before the store is opened."""


class Store:
    """The database: ``engine`` for the tables of other parts of the server (SQLAlchemy Core, from a thread)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine: Engine
