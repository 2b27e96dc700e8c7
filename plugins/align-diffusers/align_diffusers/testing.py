"""Tiny pipelines with random weights, and real tokenizers of single bytes; for tests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH: Final = 16
BYTES: Final = sorted(ByteLevel.alphabet())
CHAT: Final = (
    "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
)


def texts(*encoders: tuple[Any, Any]) -> dict[str, Any]:
    """Text encoders and their tokenizers, by the names that pipelines have for them."""
    named: dict[str, Any] = {}
    for number, (encoder, tokenizer) in enumerate(encoders, 1):
        end = "" if number == 1 else f"_{number}"
        named |= {f"text_encoder{end}": encoder, f"tokenizer{end}": tokenizer}
    return named


def clip_tokenizer() -> Any:
    """Every byte is a token."""
    vocabulary = [*BYTES, *(f"{byte}</w>" for byte in BYTES), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        words, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        words.write_text(json.dumps({word: place for place, word in enumerate(vocabulary)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(words), str(merges), model_max_length=77)


def clip(projected: bool = False) -> Any:
    """A text encoder of CLIP, two layers deep."""
    cls = CLIPTextModelWithProjection if projected else CLIPTextModel
    size = 2 * len(BYTES) + 2
    return cls(
        CLIPTextConfig(
            vocab_size=size,
            hidden_size=WIDTH,
            projection_dim=WIDTH,
            intermediate_size=37,
            num_attention_heads=2,
            num_hidden_layers=2,
            max_position_embeddings=77,
            bos_token_id=size - 2,
            eos_token_id=size - 1,
            pad_token_id=size - 1,
        )
    )


def t5_tokenizer() -> Any:
    """Every letter of the alphabet is a token."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *map(chr, range(33, 127))]
    return T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)


def t5() -> Any:
    """A text encoder of T5, two layers deep."""
    return T5EncoderModel(
        T5Config(vocab_size=98, d_model=2 * WIDTH, d_kv=8, num_heads=4, d_ff=37, num_layers=2)
    )


def qwen_tokenizer() -> Any:
    """Every byte is a token, and prompts have a template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: place for place, word in enumerate([*BYTES, *special])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.chat_template = CHAT
    return tokenizer


def kl(latents: int = 4, others: dict[str, Any] | None = None) -> Any:
    """A decoder of pictures from latents."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=latents,
        norm_num_groups=1,
        sample_size=16,
        **(others or {}),
    )


PLAIN: Final[dict[str, Any]] = {"use_quant_conv": False, "use_post_quant_conv": False}
SHIFTED: Final = PLAIN | {"shift_factor": 0.06, "scaling_factor": 1.5}


def sd3_network(layers: int = 2, heads: int = 4, width: int = 8, side: int = 8) -> Any:
    """The network of Stable Diffusion 3: heads of this width, latents of this side."""
    return SD3Transformer2DModel(
        sample_size=side,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=width,
        num_attention_heads=heads,
        caption_projection_dim=heads * width,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
    )


def sd3() -> Any:
    """Stable Diffusion 3."""
    return StableDiffusion3Pipeline(
        transformer=sd3_network(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(others=SHIFTED),
        **texts(
            (clip(projected=True), clip_tokenizer()),
            (clip(projected=True), clip_tokenizer()),
            (t5(), t5_tokenizer()),
        ),
    )


def flux(guided: bool = True) -> Any:
    """FLUX.1, with a guidance that the network is told; without it, as schnell is."""
    dynamic = {"use_dynamic_shifting": True} if guided else {"shift": 1.0}
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=[4, 4, 8],
            guidance_embeds=guided,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(**dynamic),
        vae=kl(others=SHIFTED),
        **texts((clip(), clip_tokenizer()), (t5(), t5_tokenizer())),
    )


def variance(cls: Any, prediction: str = "epsilon", **others: Any) -> Any:
    """A scheduler of Stable Diffusion that ends at clean states."""
    clean = {"clip_sample": False} if cls is DDIMScheduler else {}
    usual = {"steps_offset": 1, "timestep_spacing": "leading"} | clean
    return cls(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        **usual | others,
    )


def unet(width: int, text: int, **others: Any) -> Any:
    """A network of Stable Diffusion, two levels deep."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(width, 2 * width),
        layers_per_block=1,
        norm_num_groups=width // 4 if width > 4 else 1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text,
        **others,
    )


def sd15(
    scheduler: Any = DDIMScheduler,
    prediction: str = "epsilon",
    cls: Any = StableDiffusionPipeline,
    **others: Any,
) -> Any:
    """Stable Diffusion 1.5; `others` are of its network."""
    return cls(
        unet=unet(4, WIDTH, attention_head_dim=2, **others),
        scheduler=variance(scheduler, prediction),
        vae=kl(),
        **texts((clip(), clip_tokenizer())),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def lcm() -> Any:
    """A latent consistency model, distilled from Stable Diffusion 1.5."""
    return sd15(LCMScheduler, cls=LatentConsistencyModelPipeline, time_cond_proj_dim=8)


def sdxl(scheduler: Any = EulerDiscreteScheduler, **others: Any) -> Any:
    """Stable Diffusion XL; `others` are of its scheduler."""
    return StableDiffusionXLPipeline(
        unet=unet(
            8,
            2 * WIDTH,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        ),
        scheduler=variance(scheduler, **others),
        vae=kl(),
        **texts((clip(), clip_tokenizer()), (clip(projected=True), clip_tokenizer())),
    )


def pixart() -> Any:
    """PixArt-Σ, whose network predicts a variance too."""
    return PixArtSigmaPipeline(
        transformer=PixArtTransformer2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=2 * WIDTH,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=24,
        ),
        scheduler=variance(DDIMScheduler),
        vae=kl(),
        **texts((t5(), t5_tokenizer())),
    )


def sana(cls: Any = SanaPipeline, scheduler: Any = None, **others: Any) -> Any:
    """SANA; `others` are of its network."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁"]
    vocabulary = [*special, *map(chr, range(33, 127))]
    tokenizer = GemmaTokenizer({word: place for place, word in enumerate(vocabulary)}, [])
    return cls(
        transformer=SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=WIDTH,
            sample_size=32,
            **others,
        ),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            scaling_factor=0.41407,
        ),
        text_encoder=Gemma2Model(
            Gemma2Config(
                vocab_size=len(vocabulary),
                hidden_size=WIDTH,
                head_dim=8,
                intermediate_size=32,
                num_attention_heads=2,
                num_key_value_heads=2,
                num_hidden_layers=1,
            )
        ),
        tokenizer=tokenizer,
    )


def sprint() -> Any:
    """SANA-Sprint, distilled from SANA in trigonometric time."""
    return sana(SanaSprintPipeline, SCMScheduler(), guidance_embeds=True)


QWEN: Final[dict[str, Any]] = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": len(BYTES) + 3,
}


def qwen() -> Any:
    """Qwen-Image."""
    text = QWEN | {
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    }
    vision = {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
    }
    return QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(8, 4, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[-0.7, 0.2, 0.1, 0.0],
            latents_std=[2.8, 1.4, 0.9, 1.1],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        ),
        tokenizer=qwen_tokenizer(),
    )


def z_image() -> Any:
    """Z-Image."""
    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():  # both are made empty
        transformer.x_pad_token.fill_(0.1)
        transformer.cap_pad_token.fill_(-0.1)
    return ZImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(16, SHIFTED),
        text_encoder=Qwen3Model(Qwen3Config(**QWEN, head_dim=8, max_position_embeddings=512)),
        tokenizer=qwen_tokenizer(),
    )


FAMILIES: Final[dict[str, Callable[[], Any]]] = {
    "sd3": sd3,
    "flux": flux,
    "sd15": sd15,
    "sd15-v": lambda: sd15(prediction="v_prediction"),
    "sd15-euler": lambda: sd15(EulerDiscreteScheduler),
    "sdxl": sdxl,
    "pixart": pixart,
    "sana": sana,
    "qwen": qwen,
    "z_image": z_image,
    "schnell": lambda: flux(guided=False),
    "turbo": lambda: sdxl(EulerAncestralDiscreteScheduler, timestep_spacing="trailing"),
    "lcm": lcm,
    "sprint": sprint,
}
