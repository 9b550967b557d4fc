"""A tiny extension for the tests: the page's button that makes the hires pass of a picture that is there already."""

from modules import processing, scripts
from PIL import Image


class HiresQuickButton(scripts.Script):
    def title(self):
        return "Hires quick button"

    def ui(self, is_img2img):
        return []

    def run(self, p, *args):
        p.firstpass_image = Image.new("RGB", (p.width, p.height), (120, 120, 120))
        p.firstpass_image.paste((40, 60, 220), (p.width // 4, p.height // 4, p.width // 2, p.height // 2))
        p.txt2img_upscale = True
        return processing.process_images(p)
