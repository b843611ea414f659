"""Reconstruction quality of video autoencoders."""

from __future__ import annotations

import torch

from kalpana.evaluate.video.reconstruction import measure, table
from kalpana.models.video_vae import Config, VideoVAE
from kalpana.world.video import EVENTS, Videos

TINY = Config(
    latent=4, fine=8, coarse=8, encoder=(1, 1), decoder=(1, 1), motion_fine=8, motion_coarse=8
)


def test_a_fresh_codec_scores_as_the_cross_fade_and_its_keyframes_as_pictures() -> None:
    torch.manual_seed(0)
    rows = {row.name: row for row in measure(VideoVAE(TINY).eval(), videos=4, side=32)}
    shown = {Videos(1, "dev").video(i).event for i in range(4)}
    assert {name for name in rows if name in EVENTS} == shown
    for row in rows.values():
        assert abs(row.codec - row.fade) < 1e-3, row.name
    keys = rows["keyframes"]
    assert abs(keys.codec - keys.frames) < 1e-3 and abs(keys.codec - keys.fade) < 1e-3
    assert len(table(list(rows.values())).splitlines()) == len(rows) + 2


class Perfect(VideoVAE):
    """Lossless video codec with a fresh image autoencoder."""

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        return video

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


def test_a_lossless_codec_has_the_cap_as_its_psnr_and_the_middle_frame_fades_worst() -> None:
    rows = {row.name: row for row in measure(Perfect(TINY).eval(), videos=6, side=32)}
    assert all(row.codec > 100 for row in rows.values())
    one, two, three = (rows[f"frame {k} of 3"].fade for k in (1, 2, 3))
    assert two < one and two < three < 100
