# SPDX-License-Identifier: Apache-2.0
import pytest

from alpamayo_rt.demo.arrays import SceneArrays
from alpamayo_rt.demo.simulate import simulate


@pytest.fixture(scope="session")
def scenes() -> list[SceneArrays]:
    return [simulate("test", 0, i) for i in range(400)]
