import subprocess
import sys

import pytest

import paligemma.checkpoints as checkpoints


def test_looking_for_a_model_needs_no_torch():
    code = "import sys; from paligemma.checkpoints import pull, resolve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there_and_no_other():
    for name in checkpoints.__all__:
        assert getattr(checkpoints, name) is not None
    assert callable(checkpoints.convert)
    with pytest.raises(AttributeError, match="no attribute 'converter'"):
        _ = checkpoints.converter
