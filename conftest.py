"""What all tests share, those of the plugins too."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_caches(tmp_path_factory):
    """Tests read no cache that others wrote, and leave none behind.

    Those of runs draw their base samples anew, unless a test gives them room for keeping some.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ALIGN_CACHE_GB", "0")
        patched.setenv("ALIGN_CACHE", str(tmp_path_factory.mktemp("caches")))
        yield
