"""A list of prompts over several GPUs or machines, every picture from ordered noise.

    accelerate launch examples/accelerate_prompts.py --model stabilityai/stable-diffusion-xl-base-1.0 \
        --prompts prompts.txt --out pictures

Every line of the file is a prompt. Each picture has its own generator, seeded by its line number, and does not depend on
the rest of its batch: however many processes there are, the pictures are the same as from one.
Needs diffusers, transformers and accelerate.
"""

import argparse
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.adapters.diffusers import ordered_latents
from lib_noiseorder.settings import PRESETS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a model's folder or name, of a pipeline the adapter supports")
    parser.add_argument("--prompts", type=Path, required=True, help="text file, one prompt a line")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder for 00000.png, 00001.png …")
    parser.add_argument("--preset", choices=[name for name in PRESETS if name != "Custom"], default="Automatic")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=1, help="pictures at a time in every process")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first line's picture; the next has the next")
    parser.add_argument("--size", type=int, default=None, help="height and width; the model's own without it")
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    state = PartialState(cpu=args.cpu)
    prompts = args.prompts.read_text(encoding="utf-8").splitlines()
    numbered = [(number, prompt) for number, prompt in enumerate(prompts) if prompt.strip()]
    dtype = torch.float32 if state.device.type == "cpu" else torch.bfloat16
    pipe = DiffusionPipeline.from_pretrained(args.model, torch_dtype=dtype).to(state.device)
    pipe.set_progress_bar_config(disable=not state.is_main_process)
    settings = NoiseOrderSettings(enabled=True, preset=args.preset)
    args.out.mkdir(parents=True, exist_ok=True)

    with state.split_between_processes(numbered) as mine:
        for first in range(0, len(mine), args.batch):
            numbers, texts = zip(*mine[first : first + args.batch])
            # generators on the CPU: the same noise on every kind of machine
            generators = [torch.Generator().manual_seed(args.seed + number) for number in numbers]
            call = {"prompt": list(texts), "generator": generators, "num_inference_steps": args.steps}
            if args.size is not None:
                call |= {"height": args.size, "width": args.size}
            latents = ordered_latents(pipe, settings=settings, **call)
            for number, picture in zip(numbers, pipe(**call, latents=latents).images):
                picture.save(args.out / f"{number:05}.png")
    state.wait_for_everyone()


if __name__ == "__main__":
    main()
