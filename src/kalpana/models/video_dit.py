"""Video DiT: the image transformer of dit.py, inflated to latent frames in one sequence.

Caption tokens and the patches of all latent frames attend to each other: full attention over space
and time, without temporal layers (Open-Sora, Zheng et al. 2024, found it better than factorised
attention). All weights of the image transformer are kept under their names, and every new weight
starts so that a video of one frame gives the image transformer's prediction:

- The latent has keyframe and motion channels (video_vae.py). The motion channels enter and leave by
  convolutions of their own, which are zero at initialisation.
- Each latent frame has its own noise time, and so have its keyframe and its motion channels. Frames
  that are given have time 0 (Diffusion Forcing, Chen et al. 2024), which makes one network generate
  videos from text, from a first or last picture, and from earlier frames. Words have the time of
  the noisiest frame.
- Patches of other frames have a key bias, learned for each block and head, of -2 at initialisation.
  Word queries see the patches of f frames with a bias of -log f, so that a longer video does not
  drown the words.
- Seconds are rotary positions, in the feature pairs that the word index uses for words. These tell
  how far frames are apart; the place of a frame in the video is added to its time embedding, by a
  network whose output is zero at initialisation. Without it, motion hardly followed the words.
- The camera path is added to the time embedding of its frames, by a network whose output is zero at
  initialisation.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kalpana.models import dit
from kalpana.models.dit import Attention, DiT, precision_weighted_x0
from kalpana.models.layers import (
    Rotation,
    SwiGLU,
    embed_text,
    frequencies,
    modulate,
    positions,
    rope_tables,
    timestep_embedding,
)
from kalpana.types import Cond, KalpanaError

HARMONICS = 8  # of the place of a frame in the video
OTHER_FRAMES = -2.0  # initial key bias for patches of other frames
SECONDS = 1 / 3  # between latent frames, where the condition gives no seconds: 12 frames a second
SPEED = 2.0  # rotary angle of the fastest pair, in radians a second


@dataclass(frozen=True)
class Config(dit.Config):
    """Fields of the image transformer; ``channels`` are those of a keyframe."""

    motion: int = 8  # motion channels of the latent


class Block(nn.Module):
    """Transformer block: that of dit.py with a modulation for each frame, and a key bias, learned
    for each head, for patches of other frames."""

    compile_dynamic = True  # the training loop compiles this block, for any shape

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed = SwiGLU(width)
        self.offset = nn.Parameter(torch.zeros(6, width))
        self.other = nn.Parameter(torch.full((heads,), OTHER_FRAMES))

    def forward(
        self,
        words: Tensor,
        frames: Tensor,
        times: tuple[Tensor, Tensor],
        rotation: Rotation,
        bias: Tensor,
        others: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """New words (b, l, d) and frames (b, f, p, d).

        ``times``: shared modulation of the words (b, 6, d) and of the frames (b, f, 6, d); ``bias``
        (b, 1, l + fp, l + fp); ``others`` (l + fp, l + fp): 1 between patches of different frames.
        """
        of_words, of_frames = ((time + self.offset).unsqueeze(-2) for time in times)
        w, f = of_words.unbind(1), of_frames.unbind(2)  # 6 of b 1 d, 6 of b f 1 d
        length = words.shape[1]
        bias = bias + self.other[:, None, None] * others  # b n l+fp l+fp
        for part, (shift, scale, gate) in ((self.attention, (0, 1, 2)), (self.feed, (3, 4, 5))):
            moved = modulate(frames, f[shift], f[scale]).flatten(1, 2)  # b fp d
            x = torch.cat((modulate(words, w[shift], w[scale]), moved), 1)  # b l+fp d
            x = part(x, rotation, bias) if part is self.attention else part(x)
            words = words + w[gate] * x[:, :length]
            frames = frames + f[gate] * x[:, length:].view_as(frames)
        return words, frames


class VideoDiT(DiT):
    """Video diffusion transformer: ``network(x_t, t, cond) -> x0``.

    Latents are (b, f, channels + motion, h, w). ``t`` is (b,), (b, f) or (b, f, 2), with times of
    keyframe and motion channels. It reads these fields of the condition:

    - ``tokens``, ``null``
    - ``seconds`` (b, f): time of each latent frame in the video, SECONDS apart if not given
    - ``camera`` (b, f, 4): x and y in picture widths, log zoom and roll in radians
    - ``known`` (b, f, c + 1, h, w): frames whose mask is 1 everywhere are given; c is either all
      channels or those of a keyframe, whose motion is then generated. The prediction of given
      channels is what was given, whatever ``x_t`` holds there.
    """

    reads = ("tokens", "seconds", "camera", "known")  # fields of the condition

    def __init__(self, config: Config | None = None) -> None:
        config = config or Config()
        super().__init__(config)
        self.config: Config = config
        c, motion = config, config.motion
        self.blocks = nn.ModuleList([Block(c.width, c.heads) for _ in range(c.depth)])
        self.motion_stem = nn.Conv2d(motion, c.fine, 3, padding=1, bias=False)
        self.motion_head = nn.Conv2d(c.fine, motion, 3, padding=1)
        self.motion_time = nn.Linear(256, 256, bias=False)
        self.camera = nn.Sequential(nn.Linear(8, 256), nn.SiLU(), nn.Linear(256, 256))
        self.clock = nn.Sequential(
            nn.Linear(2 * HARMONICS + 2, 256), nn.SiLU(), nn.Linear(256, 256, bias=False)
        )
        self._init()
        zeros = (
            self.motion_stem,
            self.motion_head,
            self.motion_time,
            self.camera[-1],
            self.clock[-1],
        )
        for zero in zeros:
            nn.init.zeros_(zero.weight)  # type: ignore[arg-type]

    @classmethod
    def inflate(cls, image: DiT) -> VideoDiT:
        """A video transformer with the weights of an image transformer."""
        network = cls(Config(**asdict(replace(image.config, aux_outputs=0))))
        network.load_state_dict(network.state_dict() | _shared(image, network))
        return network

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Estimate of x0, (b, f, channels + motion, h, w)."""
        (b, f), patch = x_t.shape[:2], self.config.patch
        h, w = x_t.shape[-2] // patch, x_t.shape[-1] // patch
        times = _two_times(t)  # b f 2, each of b and f possibly 1
        if cond.known is not None:
            x_t, times, given = self._given(x_t, times.expand(b, f, 2), cond.known)
        words, mask = embed_text(self.words, self.null, cond, b)  # b l d, b l
        length = words.shape[1]
        seconds = SECONDS * torch.arange(f, dtype=torch.float32, device=x_t.device)[None]
        seconds = seconds if cond.seconds is None else cond.seconds.float()
        grid = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1)
        grid = grid.flatten(0, 1).to(x_t.device)  # hw 2
        rotation, text_rotation = self._rotations(length, grid, seconds)
        bias, others = _biases(mask, f, h * w)

        words_wave = timestep_embedding(times.amax((1, 2)))  # b 256
        wave = self._wave(times, seconds, cond.camera)  # b f 256
        words_time = self.time(words_wave).unflatten(-1, (6, -1))  # b 6 d
        time = self.time(wave.flatten(0, 1)).unflatten(-1, (6, -1)).unflatten(0, wave.shape[:2])
        no_time, padding = torch.zeros_like(words_time), bias[:, :, :1, :length]
        for block in self.text:
            words = block(words, no_time, text_rotation, padding)

        # Frames are rows of a batch for the convolutions; one time for all is one row.
        single = wave.shape[:2] == (1, 1)
        rows = (wave if single else wave.expand(b, f, -1)).flatten(0, 1)  # bf 256
        key, motion = x_t.flatten(0, 1).split([self.config.channels, self.config.motion], 1)
        stem = self.stem(key.contiguous(memory_format=torch.channels_last))
        stem = stem + self.motion_stem(motion.contiguous(memory_format=torch.channels_last))
        fine = self.before(stem, rows)  # bf c h·p w·p
        patches = F.pixel_unshuffle(fine, patch).flatten(2).transpose(1, 2)
        frames = self.patches(patches) + positions(grid, self.config.width)  # bf hw d
        frames = frames.unflatten(0, (b, f))
        for block in self.blocks:
            words, frames = block(words, frames, (words_time, time), rotation, bias, others)

        shift, scale = self.final(wave).unsqueeze(2).chunk(2, -1)  # b f 1 d
        x = self.unpatch(modulate(frames, shift, scale)).flatten(0, 1)  # bf hw c·p·p
        fine = fine + F.pixel_shuffle(x.transpose(1, 2).unflatten(-1, (h, w)), patch)
        for block in self.after:
            fine = block(fine, rows)
        key_t, motion_t = times.expand(b, f, 2).flatten(0, 1).unbind(-1)  # bf
        key = precision_weighted_x0(self.head(fine), key, key_t)
        motion = precision_weighted_x0(self.motion_head(fine), motion, motion_t)
        x0 = torch.cat((key, motion), 1).unflatten(0, (b, f))
        return x0 if cond.known is None else torch.where(given, x_t.to(x0), x0)

    def _given(self, x_t: Tensor, times: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x_t`` with the given frames in it, the times with 0 for these, and where they are,
        (b, f, channels, 1, 1) bool."""
        key, total = self.config.channels, self.config.channels + self.config.motion
        count = known.shape[2] - 1
        if count not in (key, total):
            raise KalpanaError(
                f"known frames of {count} channels do not fit: give {total}, or {key} for pictures "
                "whose motion is to be generated, and the mask behind them"
            )
        frame = known[:, :, -1].flatten(2).amin(2) > 0.5  # b f
        channel = torch.arange(total, device=known.device) < count
        given = (frame[:, :, None] & channel)[..., None, None]
        x_t = torch.where(
            given, F.pad(known[:, :, :-1], (0, 0, 0, 0, 0, total - count)).to(x_t), x_t
        )
        return x_t, torch.where(given[:, :, [0, -1], 0, 0], 0.0, times), given

    def _wave(self, times: Tensor, seconds: Tensor, camera: Tensor | None) -> Tensor:
        """Embedding (b, f, 256) of the times (b, f, 2), of the place of each frame in the video,
        and, where given, of the camera path."""
        key, motion = (
            timestep_embedding(each.flatten()).view(*each.shape, -1) for each in times.unbind(-1)
        )
        wave = key + self.motion_time(motion) + self.clock(_place(seconds))
        if camera is None:
            return wave
        # The pose relative to the first frame, and its change a second since the frame before.
        path = camera.float() - camera[:, :1].float()
        step = seconds.diff(dim=1, prepend=seconds[:, :1] - 1).clamp(min=1e-3)
        rate = path.diff(dim=1, prepend=path[:, :1]) / step.unsqueeze(-1)
        return wave + self.camera(torch.cat((path, rate), -1))

    def _rotations(self, length: int, grid: Tensor, seconds: Tensor) -> tuple[Rotation, Rotation]:
        """Rotary tables of the whole sequence, (b, 1, l + fhw, d/n/2), and of the words alone."""
        angles = self._angles(length, grid)  # l+hw d/n/2
        words, image = angles[:length], angles[length:]
        b, pairs = len(seconds), words.shape[1]
        spare = pairs - 2 * (pairs * 3 // 8)
        time = SPEED * seconds[..., None] * frequencies(spare, 1000, seconds.device)  # b f spare
        image = image + F.pad(time, (0, pairs - spare)).unsqueeze(2)  # b f hw d/n/2
        whole = torch.cat((words.expand(b, -1, -1), image.flatten(1, 2)), 1)
        return rope_tables(whole.unsqueeze(1)), rope_tables(words)


def _place(seconds: Tensor) -> Tensor:
    """Features (b, f, 2 HARMONICS + 2) of the place of each frame in a video, from seconds (b, f):
    harmonics of its share of the duration, the seconds since the first frame, and the duration."""
    passed = seconds - seconds[:, :1]
    whole = passed[:, -1:].clamp(min=1e-3)
    k = torch.arange(HARMONICS, device=seconds.device)
    angle = math.pi * k * (passed / whole)[..., None]
    rest = torch.stack((passed, whole.expand_as(passed)), -1)
    return torch.cat((angle.cos(), angle.sin(), rest), -1)


def _two_times(t: Tensor) -> Tensor:
    """Times (b, f, 2) of keyframe and motion channels, from times (b,), (b, f) or (b, f, 2); f is 1
    where all frames have one time."""
    if t.ndim == 1:
        t = t[:, None]
    return t if t.ndim == 3 else t.unsqueeze(-1).expand(-1, -1, 2)


def _biases(mask: Tensor, f: int, hw: int) -> tuple[Tensor, Tensor]:
    """Biases of the scores of l words and fhw patches: that of all heads, (b, 1, l + fhw,
    l + fhw), for padding and for words that see f frames; and ``others`` (l + fhw, l + fhw), which
    is 1 between patches of different frames.
    """
    length, device = mask.shape[1], mask.device
    padding = F.pad(-1e4 * (~mask).float(), (0, f * hw))[:, None, None]
    frame = torch.arange(f, device=device).repeat_interleave(hw)
    others = F.pad((frame[:, None] != frame).float(), (length, 0, length, 0))
    dilution = torch.zeros_like(others)
    dilution[:length, length:] = -math.log(f)
    return padding + dilution, others


def _shared(image: DiT, network: VideoDiT) -> dict[str, Tensor]:
    """The weights of an image transformer that a video transformer has too."""
    own = network.state_dict().keys()
    return {name: value for name, value in image.state_dict().items() if name in own}
