"""The API client that users have: what it sends is understood, what it gets back restores the settings."""

import numpy as np
import pytest
import webuiapi

from lib_noiseorder import NoiseOrderSettings

from .client import noise_order


@pytest.mark.real_host
@pytest.mark.path("API through webuiapi")
def test_round_trip(host):
    api = webuiapi.WebUIApi(baseurl=f"{host.server.url}/sdapi/v1")
    wish = NoiseOrderSettings(enabled=True, erasure_samples=3, strength=0.25, detail_weight=0.5)
    wanted = {name: value for name, value in host.defaults().items() if name != "n_iter"}
    result = api.txt2img(**wanted, alwayson_scripts={"Noise Order": {"args": [wish.to_dict()]}})
    assert NoiseOrderSettings.from_infotext(result.info["infotexts"][0]) == wish
    again = host.txt2img(**noise_order(**wish.to_dict()))
    assert np.array_equal(np.asarray(result.image.convert("RGB")), again.pictures[0])
