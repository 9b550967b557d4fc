from modules import processing


def pictures_for(p):
    """As the hosts' API: the chosen script makes the pictures; without one the host itself, and shows all that came."""
    processed = p.scripts.run(p, *p.script_args)
    return processing.process_images(p) if processed is None else processed
