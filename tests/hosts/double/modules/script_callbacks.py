from types import SimpleNamespace

callback_map = {f"callbacks_{name}": [] for name in ("cfg_denoiser", "cfg_denoised", "cfg_after_cfg")}


def _on(name):
    return lambda callback: callback_map[f"callbacks_{name}"].append(SimpleNamespace(callback=callback))


on_cfg_denoiser, on_cfg_denoised, on_cfg_after_cfg = map(_on, ("cfg_denoiser", "cfg_denoised", "cfg_after_cfg"))


def on_app_started(callback):
    """The double has no pages."""


def remove_callbacks_for_function(function):
    for registered in callback_map.values():
        registered[:] = [one for one in registered if one.callback != function]


def called(name, x):
    """x as the callbacks of that name leave it."""
    params = SimpleNamespace(x=x)
    for one in callback_map[f"callbacks_{name}"]:
        one.callback(params)
    return params.x
