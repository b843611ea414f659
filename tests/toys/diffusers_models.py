"""Tiny pipelines of the diffusers library with random weights, by name, and their folders.

    python tests/toys/diffusers_models.py flux FOLDER

writes one of them.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as d
import transformers as t
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from toys import stable_diffusion as sd

VAE: dict[str, Any] = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 32,
}
# Levels of an autoencoder whose latents are 8 pixels wide, as Lumina2Pipeline takes for granted.
FOUR: dict[str, Any] = {
    "block_out_channels": (8,) * 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
XL: dict[str, Any] = UNET | {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "transformer_layers_per_block": (1, 1),
    "projection_class_embeddings_input_dim": 6 * 4 + 16,
    "cross_attention_dim": 32,
}
BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}


def clip_text(projection: bool = False) -> Any:
    config = t.CLIPTextConfig(
        vocab_size=520, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, projection_dim=16,
        bos_token_id=518, eos_token_id=519, pad_token_id=519,
    )  # fmt: skip
    kind = t.CLIPTextModelWithProjection if projection else t.CLIPTextModel
    return sd.stir(kind(config), 1)


def clip_tokenizer() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        sd._write_tokenizer(Path(folder))
        return t.CLIPTokenizer.from_pretrained(folder)


def words_tokenizer() -> Any:
    """A tokenizer of bytes, with the end token that T5 writes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: k for k, token in enumerate(["<pad>", "</s>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return t.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        bos_token="<pad>", model_max_length=64, padding_side="right",
    )  # fmt: skip


def t5(multilingual: bool = False) -> Any:
    shared = {
        "vocab_size": 300, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
    }  # fmt: skip
    if multilingual:
        return sd.stir(t.UMT5EncoderModel(t.UMT5Config(**shared)), 2)
    return sd.stir(t.T5EncoderModel(t.T5Config(**shared)), 2)


def gemma() -> Any:
    config = t.Gemma2Config(
        vocab_size=300, hidden_size=8, intermediate_size=16, num_hidden_layers=2, head_dim=4,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0,
        eos_token_id=1, bos_token_id=0,
    )  # fmt: skip
    return sd.stir(t.Gemma2Model(config), 3)


def vae(**changes: Any) -> Any:
    return sd.stir(d.AutoencoderKL(**(VAE | changes)), 4)


def parts(**more: Any) -> dict[str, Any]:
    """Parts of a Stable Diffusion 1."""
    given = {
        "unet": sd.stir(d.UNet2DConditionModel(**UNET), 5),
        "vae": vae(),
        "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(),
        "scheduler": d.DDIMScheduler(**BETAS, set_alpha_to_one=False, steps_offset=1),
    }
    return given | more


def controlnet() -> Any:
    extra = {"conditioning_embedding_out_channels": (4, 8)}
    config = {k: v for k, v in UNET.items() if k not in ("sample_size", "up_block_types")}
    del config["out_channels"]
    return sd.stir(d.ControlNetModel(**config, **extra), 6)


CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def sd_controlnet() -> Any:
    return d.StableDiffusionControlNetPipeline(**parts(controlnet=controlnet()), **CHECKER)


def lcm() -> Any:
    net = sd.stir(d.UNet2DConditionModel(**UNET, time_cond_proj_dim=8), 5)
    scheduler = d.LCMScheduler(**BETAS, set_alpha_to_one=False)
    return d.LatentConsistencyModelPipeline(**parts(unet=net, scheduler=scheduler), **CHECKER)


def sdxl(kind: Any = None) -> Any:
    own = parts(
        unet=sd.stir(d.UNet2DConditionModel(**XL), 7),
        text_encoder_2=clip_text(True),
        tokenizer_2=clip_tokenizer(),
        scheduler=d.EulerDiscreteScheduler(**{k: BETAS[k] for k in list(BETAS)[:3]}),
    )
    return (kind or d.StableDiffusionXLPipeline)(**own)


def sdxl_inpaint() -> Any:
    own = sdxl().components
    own["unet"] = sd.stir(d.UNet2DConditionModel(**XL | {"in_channels": 9}), 7)
    return d.StableDiffusionXLInpaintPipeline(**own)


def sd3() -> Any:
    transformer = d.SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32,
        pooled_projection_dim=32, out_channels=4, pos_embed_max_size=32,
    )  # fmt: skip
    return d.StableDiffusion3Pipeline(
        transformer=sd.stir(transformer, 8),
        scheduler=d.FlowMatchEulerDiscreteScheduler(),
        vae=vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        text_encoder=clip_text(True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text(True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def flux() -> Any:
    transformer = d.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    return d.FluxPipeline(
        transformer=sd.stir(transformer, 9),
        scheduler=d.FlowMatchEulerDiscreteScheduler(),
        vae=vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=words_tokenizer(),
    )


def pixart() -> Any:
    transformer = d.PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2,
        caption_channels=16, in_channels=4, cross_attention_dim=16, out_channels=8,
        attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
    )  # fmt: skip
    return d.PixArtSigmaPipeline(
        transformer=sd.stir(transformer, 10),
        vae=vae(),
        scheduler=d.DDIMScheduler(),
        text_encoder=t5(),
        tokenizer=words_tokenizer(),
    )


def sana() -> Any:
    transformer = d.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
        attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4,
        cross_attention_dim=8, caption_channels=8, sample_size=8,
    )  # fmt: skip
    blocks = ("ResBlock", "ResBlock")
    autoencoder = d.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=blocks,
        decoder_block_types=blocks, encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm",
        decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    return d.SanaPipeline(
        transformer=sd.stir(transformer, 11),
        vae=sd.stir(autoencoder, 12),
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder=gemma(),
        tokenizer=words_tokenizer(),
    )


def lumina2() -> Any:
    transformer = d.Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=1,
        num_refiner_layers=1, num_attention_heads=3, num_kv_heads=1, multiple_of=2,
        axes_dim_rope=(4, 2, 2), axes_lens=(300, 32, 32), cap_feat_dim=8,
    )  # fmt: skip
    return d.Lumina2Pipeline(
        transformer=sd.stir(transformer, 13),
        vae=vae(**FOUR, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        scheduler=d.FlowMatchEulerDiscreteScheduler(),
        text_encoder=gemma(),
        tokenizer=words_tokenizer(),
    )


def kandinsky3() -> Any:
    net = d.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4,
        layers_per_block=3, block_out_channels=(32, 64), cross_attention_dim=4, encoder_hid_dim=16,
    )  # fmt: skip
    movq = d.VQModel(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4,
        norm_num_groups=32, num_vq_embeddings=8, vq_embed_dim=4, norm_type="spatial",
    )  # fmt: skip
    return d.Kandinsky3Pipeline(
        unet=sd.stir(net, 14),
        movq=sd.stir(movq, 15),
        scheduler=d.DDPMScheduler(beta_start=0.00085, beta_end=0.012),
        text_encoder=t5(),
        tokenizer=words_tokenizer(),
    )


def wan_vae() -> Any:
    config = {"base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    return sd.stir(d.AutoencoderKLWan(**config, temperal_downsample=[False, True, True]), 16)


def wan_transformer(channels: int = 16, **more: Any) -> Any:
    return sd.stir(
        d.WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12,
            in_channels=channels, out_channels=16, text_dim=16, freq_dim=16, ffn_dim=16,
            num_layers=1, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32, **more,
        ),
        17,
    )  # fmt: skip


def wan() -> Any:
    return d.WanPipeline(
        transformer=wan_transformer(),
        vae=wan_vae(),
        scheduler=d.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        text_encoder=t5(True),
        tokenizer=words_tokenizer(),
    )


def wan_image() -> Any:
    return d.WanImageToVideoPipeline(
        transformer=wan_transformer(36),
        vae=wan_vae(),
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=t5(True),
        tokenizer=words_tokenizer(),
    )


def ltx() -> Any:
    transformer = d.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, patch_size=1, patch_size_t=1, num_attention_heads=2,
        attention_head_dim=8, cross_attention_dim=16, num_layers=1, caption_channels=16,
    )  # fmt: skip
    autoencoder = d.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False), patch_size=1, patch_size_t=1,
        decoder_spatio_temporal_scaling=(True, True, False, False), encoder_causal=True,
        decoder_causal=False, decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4,
        upsample_factor=(1, 1, 1, 1), timestep_conditioning=False,
    )  # fmt: skip
    return d.LTXPipeline(
        transformer=sd.stir(transformer, 18),
        vae=sd.stir(autoencoder, 19),
        scheduler=d.FlowMatchEulerDiscreteScheduler(),
        text_encoder=t5(),
        tokenizer=words_tokenizer(),
    )


def animatediff() -> Any:
    motion = d.MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )  # fmt: skip
    scheduler = d.DDIMScheduler(**BETAS | {"beta_schedule": "linear"})
    return d.AnimateDiffPipeline(
        **parts(scheduler=scheduler), motion_adapter=sd.stir(motion, 20), feature_extractor=None
    )


def cogvideox_image() -> Any:
    transformer = d.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=8, out_channels=4,
        time_embed_dim=2, text_embed_dim=16, num_layers=1, sample_width=2, sample_height=2,
        sample_frames=9, patch_size=2, temporal_compression_ratio=4, max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
    )  # fmt: skip
    blocks = 4
    autoencoder = d.AutoencoderKLCogVideoX(
        in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1, norm_num_groups=2,
        down_block_types=("CogVideoXDownBlock3D",) * blocks, block_out_channels=(8,) * blocks,
        up_block_types=("CogVideoXUpBlock3D",) * blocks, temporal_compression_ratio=4,
    )  # fmt: skip
    return d.CogVideoXImageToVideoPipeline(
        transformer=sd.stir(transformer, 21),
        vae=sd.stir(autoencoder, 22),
        scheduler=d.DDIMScheduler(),
        text_encoder=t5(),
        tokenizer=words_tokenizer(),
    )


MODELS: dict[str, Callable[[], Any]] = {
    "controlnet": sd_controlnet,
    "lcm": lcm,
    "sdxl": sdxl,
    "sdxl-inpaint": sdxl_inpaint,
    "sd3": sd3,
    "flux": flux,
    "pixart": pixart,
    "sana": sana,
    "lumina2": lumina2,
    "kandinsky3": kandinsky3,
    "wan": wan,
    "wan-image": wan_image,
    "ltx": ltx,
    "animatediff": animatediff,
    "cogvideox-image": cogvideox_image,
}


def write(name: str, folder: Path) -> Path:
    """One of the pipelines, in a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MODELS[name]().save_pretrained(str(folder), safe_serialization=True)
    return folder


if __name__ == "__main__":
    print(write(sys.argv[1], Path(sys.argv[2])))
