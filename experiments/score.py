"""The judge's scores of weights on dev prompts: `PYTHONPATH=experiments python experiments/score.py NAME WEIGHTS [GUIDANCE...]`."""

import sys, json, torch, numpy as np
from pathlib import Path
from judge import FILE, Judge, judge, prompts, summary
from kalpana.diffusion.denoiser import Denoiser
from kalpana.diffusion.guidance import guide
from kalpana.diffusion.samplers import SAMPLERS, sample
from kalpana.diffusion.schedule import Flow, times
from kalpana.generate.text_to_image import noise
from kalpana.hub.weights import load_module
from kalpana.media import grid, to_images
from kalpana.models import dit, vae
from kalpana.text.tokenizer import Tokenizer
from kalpana.types import Cond
from kalpana.world.world import World

which, path = sys.argv[1], Path(sys.argv[2])
scales = [float(s) for s in sys.argv[3:]] or [3.0]
mod = dit
net = load_module(path, "flow", lambda **c: mod.DiT(mod.Config(**c)))
dec = load_module(Path("weights/default/vae.safetensors"), "vae", lambda **c: vae.VAE(vae.Config(**c)))
tok = Tokenizer.load()
dev = World(0, "dev")
J = Judge()
J.load_state_dict(torch.load(FILE))
J.eval()
asked = prompts({"single": 96, "count": 64, "two": 0})
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
    for scale in scales:
        out, drawn = [], []
        for s in range(0, len(asked), 16):
            part = asked[s : s + 16]
            cond = Cond(tok.encode([dev.describe(i)[0] for i, _, _ in part], 64))
            x = noise([i for i, _, _ in part], (16, 16, 16))
            for st in sample(guide(Denoiser(net, Flow()), cond, scale), x, times(20), SAMPLERS["dpmpp-2m"]):
                x = st.x
            px = dec.decode(x.float()).float().clamp(-1, 1)
            drawn.append(px)
            with torch.autocast("cpu", enabled=False):
                out += [(k, v) for (_, k, _), v in zip(part, judge(J, px.float(), [c for _, _, c in part]), strict=True)]
        print(which, scale, json.dumps({k: v for k, v in summary(out).items() if not k.startswith("two")}), flush=True)
grid(to_images(torch.cat(drawn)[:96])).save(f"/tmp/final-{which}.png")
