"""Scripts of the page's menu that make several jobs, or one of their own, by what they do with the pictures that come back."""

import copy

from modules import errors, processing, scripts


class Tiles(scripts.Script):
    """Two tiles of one picture, taken in the order in which pictures came, as SD upscale and poor man's outpainting do."""

    def run(self, p):
        came, info = [], None
        for _ in range(2):
            processed = processing.process_images(p)
            info = info or processed.info
            p.seed = processed.seed + 1
            came += processed.images
        picture = came[0].clone()
        picture[..., picture.shape[-1] // 2 :] = came[1][..., picture.shape[-1] // 2 :]
        return processing.Processed(p, [picture], info)


class FirstOfTheBatch(scripts.Script):
    """As many of the pictures as the batch has, as outpainting mk2 does."""

    def run(self, p):
        processed = processing.process_images(p)
        return processing.Processed(p, processed.images[: p.batch_size], processed.info)


class Matrix(scripts.Script):
    """A list of prompts, and as many pictures as there are of them, as the prompt matrix does."""

    def run(self, p):
        p.prompt = [p.prompt, "red circle", "blue square"]
        p.seed, p.n_iter = [p.seed] * 3, 3
        processed = processing.process_images(p)
        assert len(processed.images) == 3, "bad number of pictures"
        return processed


class Loop(scripts.Script):
    """The first picture of every job, as loopback does."""

    def run(self, p):
        kept, info = [], None
        for _ in range(2):
            processed = processing.process_images(p)
            info = info or processed.info
            kept.append(processed.images[0])
            p.seed = processed.seed + 1
        return processing.Processed(p, kept, info)


class Cells(scripts.Script):
    """The first picture of every copy of the job, and an empty cell where one fails, as the grid script does."""

    def run(self, p):
        kept, info = [], None
        for _ in range(2):
            cell = copy.copy(p)
            cell.steps += len(kept)
            try:
                processed = processing.process_images(cell)
            except Exception:
                errors.report("cell", exc_info=True)
                continue
            info = info or processed.info
            kept.append(processed.images[0])
        return processing.Processed(p, kept, info)


Cells.__module__ = "xyz_grid.py"  # as the hosts name it


class Lines(scripts.Script):
    """All pictures of a copy of the job per line, as prompts from a file do."""

    def run(self, p):
        pictures, texts = [], []
        for prompt in (p.prompt, "blue square"):
            line = copy.copy(p)
            line.prompt = prompt
            processed = processing.process_images(line)
            pictures += processed.images
            texts += processed.infotexts
        return processing.Processed(p, pictures, infotexts=texts)


class OwnSampling(scripts.Script):
    """A job whose sampling is the script's own, as the img2img alternative test's is."""

    def run(self, p):
        from modules import sd_samplers

        def sample(cond, uncond):
            sampler = sd_samplers.create_sampler("Euler", p.sd_model)
            noise = p.rng.next() * 0 + 1
            return sampler.sample(p, noise, cond, uncond, image_conditioning=noise.new_zeros(len(noise), 5, 1, 1))

        p.sample = sample
        return processing.process_images(p)


ALL = (Tiles, FirstOfTheBatch, Matrix, Loop, Cells, Lines, OwnSampling)
