from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from storage.engine import connect
from tests.conftest import fresh_database
from tests.ground import Ground, lay


@pytest.fixture(scope="session")
def log_engine(template_url: str) -> Iterator[sa.Engine]:
    """One database for many tests: each has a project of its own in it."""
    with fresh_database(template_url, template=True) as url:
        opened = connect(url, pool_size=10)
        yield opened
        opened.dispose()


@pytest.fixture
def ground(log_engine: sa.Engine) -> Ground:
    """A new project with a policy, metrics and a reward."""
    return lay(log_engine)
