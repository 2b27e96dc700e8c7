"""Latents and pictures by the pipelines themselves: `by_pipelines.py FOLDER`, without align.

FOLDER/cases.json says for each name the folder of a pipeline, that of adapters if there are any,
and the arguments of its call with the prompts; FOLDER/NAME.noise.pt holds the noise.
FOLDER/NAME.wanted.pt is written.
"""

import copy
import json
import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

folder = Path(sys.argv[1])
for name, case in json.loads((folder / "cases.json").read_text()).items():
    pipe = DiffusionPipeline.from_pretrained(case["pipeline"], local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    if "adapters" in case:
        pipe.load_lora_weights(case["adapters"])
    noise = torch.load(folder / f"{name}.noise.pt")

    def made(output, pipe=pipe, case=case, noise=noise):
        call = copy.deepcopy(case["call"])  # Z-Image writes into its prompts
        return pipe(latents=noise.clone(), output_type=output, return_dict=False, **call)[0]

    torch.save({"latents": made("latent"), "pictures": made("pt")}, folder / f"{name}.wanted.pt")
