from pathlib import Path

import pytest

from tutee.errors import InvalidInput
from tutee.settings import load_settings


def test_flags_win_over_the_environment_which_wins_over_defaults(tmp_path: Path) -> None:
    settings = load_settings({"TUTEE_HOME": str(tmp_path), "TUTEE_PORT": "9000", "PATH": "/bin"}, port=None, host="::1")
    assert (settings.home, settings.port, settings.host) == (tmp_path.resolve(), 9000, "::1")
    assert settings.url == f"sqlite:///{tmp_path.resolve() / 'tutee.db'}"


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"TUTEE_PROT": "1"}, "TUTEE_PROT"),
        ({"TUTEE_PORT": "x"}, "TUTEE_PORT"),
        ({"TUTEE_PORT": "65536"}, "TUTEE_PORT"),
        ({"TUTEE_PORT": "9" * 5000}, "TUTEE_PORT"),
        ({"TUTEE_THREADS": "-1"}, "TUTEE_THREADS"),
        ({"TUTEE_MAX_BATCH": "0"}, "TUTEE_MAX_BATCH"),
        ({"TUTEE_CACHE_TOKENS": "0"}, "TUTEE_CACHE_TOKENS"),
        ({"TUTEE_MAX_WAITING": "0"}, "TUTEE_MAX_WAITING"),
        ({"TUTEE_STREAM_KEEPALIVE": "-1"}, "TUTEE_STREAM_KEEPALIVE"),
        ({"TUTEE_DTYPE": "int3"}, "TUTEE_DTYPE"),
        ({"TUTEE_PRECISION": "int3"}, "TUTEE_PRECISION"),
        ({"TUTEE_PRECISION": "int8", "TUTEE_DTYPE": "float32"}, "TUTEE_PRECISION"),
    ],
)
def test_a_wrong_setting_is_named(environment: dict[str, str], names: str) -> None:
    with pytest.raises(InvalidInput, match=names):
        load_settings(environment)


def test_the_switch_of_the_compiled_kernels_is_known() -> None:
    assert load_settings({"TUTEE_KERNELS": "off"}) == load_settings({})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False), ("box", False)],
)
def test_only_this_machine_is_loopback(host: str, loopback: bool) -> None:
    assert load_settings({}, host=host).loopback is loopback
