"""The network: embedding, blocks, norm, head, with Hugging Face parameter names. One forward pass for everything.

Two precisions. "float32" is exact: a token's numbers do not depend on what else is in the batch, nor on whether its
past came from the cache. "bfloat16" is fast: matrices and cache in bfloat16; residual stream, norms, softmax, embedding
and head in float32, because near ties between tokens are decided there.

Axes: T tokens, D hidden, H query heads, G kv heads, K head dim, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tutee.model.adapted import Matrices
from tutee.model.attention import attend
from tutee.model.config import DecoderConfig
from tutee.model.gradients import embedding
from tutee.model.head import MAX_WIDTH, NativeHead
from tutee.model.integers import Precision
from tutee.model.kernels import NativeDecoder, available
from tutee.model.kv_cache import TiledCache
from tutee.model.layout import Layout
from tutee.model.matmul import Projection, tiled_linear
from tutee.model.matrix_unit import trim
from tutee.model.norm import Norm
from tutee.model.packing import BlockWeights
from tutee.model.rope import rope_table, rotate
from tutee.model.training_pass import BlockParts, Network, packed_pass


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, config: DecoderConfig, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        D, H, G, K = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = Projection(D, H * K, config.attention_bias, dtype)
        self.k_proj = Projection(D, G * K, config.attention_bias, dtype)
        self.v_proj = Projection(D, G * K, config.attention_bias, dtype)
        self.o_proj = Projection(H * K, D, config.output_bias, dtype)
        if config.qk_norm:
            self.q_norm = Norm(K, config.rms_norm_eps)
            self.k_norm = Norm(K, config.rms_norm_eps)
        prefix = f"model.layers.{layer}.self_attn"
        self.inputs = Matrices(prefix, q_proj=self.q_proj, k_proj=self.k_proj, v_proj=self.v_proj)
        self.output = Matrices(prefix, o_proj=self.o_proj)

    def forward(self, x_TD: Tensor, rotation: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        H, G, K = self.config.num_attention_heads, self.config.num_key_value_heads, self.config.head_dim
        heads_TXK = self.inputs(x_TD, layout).view(len(x_TD), H + 2 * G, K)
        # Splits, not slices: a slice's gradient is a zeroed copy of the whole.
        turned_TXK, v_TGK = torch.split(heads_TXK, [H + G, G], dim=1)
        if self.config.qk_norm:
            q_THK, k_TGK = torch.split(turned_TXK, [H, G], dim=1)
            turned_TXK = torch.cat((self.q_norm(q_THK), self.k_norm(k_TGK)), dim=1)
        turned_TXK = rotate(turned_TXK, *rotation).to(x_TD.dtype)
        q_THK, k_TGK = torch.split(turned_TXK, [H, G], dim=1)
        if layout.cache is not None and layout.slots_T is not None:
            layout.cache.write(self.layer, layout.slots_T, k_TGK, v_TGK)
        return self.output(self._attend(q_THK, k_TGK, v_TGK, layout), layout)

    def _attend(self, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, layout: Layout) -> Tensor:
        groups, order_T = layout.groups(self.config.sliding_window)
        outs = []
        for group in groups:
            if group.blocks is None:
                keys, values = group.keys(k_TGK), group.keys(v_TGK)
            else:
                assert layout.cache is not None
                keys, values = layout.cache.read(self.layer, group.blocks)
            outs.append(attend(group.queries(q_THK), keys, values, group.bias_BNS).flatten(2).flatten(0, 1))
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return out if order_T is None else out.index_select(0, order_T)


class FeedForward(nn.Module):
    """Gated linear unit with SiLU (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        D, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Projection(D, inner, False, dtype)
        self.up_proj = Projection(D, inner, False, dtype)
        self.down_proj = Projection(inner, D, False, dtype)
        prefix = f"model.layers.{layer}.mlp"
        self.inputs = Matrices(prefix, gate_proj=self.gate_proj, up_proj=self.up_proj)
        self.output = Matrices(prefix, down_proj=self.down_proj)

    def forward(self, x_TD: Tensor, layout: Layout) -> Tensor:
        gate_TF, up_TF = self.inputs(x_TD, layout).chunk(2, dim=-1)
        if x_TD.dtype == torch.float32:
            # Vector code and the scalar code at a row's end round the exponential differently; in float64 it is hidden.
            return self.output((functional.silu(gate_TF.double()) * up_TF).float(), layout)
        return self.output(functional.silu(gate_TF) * up_TF, layout)


class Block(nn.Module):
    """Attention and feed-forward, each on a normed copy of the float32 residual stream."""

    def __init__(self, config: DecoderConfig, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer, dtype)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config, layer, dtype)

    def weights(self) -> BlockWeights:
        """The parameters, for `NativeDecoder`."""
        attention, mlp = self.self_attn, self.mlp
        return BlockWeights(
            name=f"model.layers.{attention.layer}",
            q=attention.q_proj,
            k=attention.k_proj,
            v=attention.v_proj,
            out=attention.o_proj,
            gate=mlp.gate_proj,
            up=mlp.up_proj,
            down=mlp.down_proj,
            norm_in=self.input_layernorm.weight,
            norm_mid=self.post_attention_layernorm.weight,
            q_norm=attention.q_norm.weight if attention.config.qk_norm else None,
            k_norm=attention.k_norm.weight if attention.config.qk_norm else None,
        )

    def parts(self) -> BlockParts:
        """The modules, for `packed_pass`."""
        attention, mlp = self.self_attn, self.mlp
        return BlockParts(
            attention_norm=self.input_layernorm,
            heads=attention.inputs,
            head_norms=(attention.q_norm, attention.k_norm) if attention.config.qk_norm else None,
            attended=attention.output,
            feed_forward_norm=self.post_attention_layernorm,
            gate_up=mlp.inputs,
            down=mlp.output,
        )

    def forward(self, x_TD: Tensor, rotation: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD).to(self.dtype), rotation, layout)
        out_TD: Tensor = x_TD + self.mlp(self.post_attention_layernorm(x_TD).to(self.dtype), layout)
        return out_TD


class Embedding(nn.Module):
    """A float32 table of one row per token."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size), requires_grad=False)


class Body(nn.Module):
    """What transformers calls `model`."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config)
        self.layers = nn.ModuleList(Block(config, layer, dtype) for layer in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """A Llama-family decoder. `state_dict()` has the names and shapes of transformers.

    Parameters are created empty, and frozen for inference: `load_state_dict` or `initialise` fills them; a trainer
    calls `requires_grad_(True)` for full fine-tuning. Change them in place under `torch.no_grad()`, not by `.data`:
    copies that are laid out for speed are renewed when a parameter's version counter moves.
    """

    def __init__(self, config: DecoderConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"dtype is {dtype}; it must be float32 or bfloat16")
        self.config = config
        self.dtype = dtype
        """Compute precision of the matrices, and what a `KVCache` for this decoder must hold."""
        self.cut = False
        """Whether the weights are cut over several processes, which put one block at a time together."""
        self.serves_only = False
        """Whether the blocks' matrices are here as `native` has packed them only (`keep_packed_only`)."""
        self.model = Body(config, dtype)
        if not config.tie_word_embeddings:
            self.lm_head = Embedding(config)
        cos, sin = rope_table(config)
        self.rope_cos: Tensor
        self.rope_sin: Tensor
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        self._native: NativeDecoder | None = None
        self._native_head: NativeHead | None = None
        self.register_state_dict_pre_hook(Decoder._need_matrices)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_native": None, "_native_head": None}  # a copy packs its own weights

    @property
    def native(self) -> NativeDecoder | None:
        """This decoder in C, where the machine can run it: bfloat16, on a CPU with matrix units."""
        if self.dtype != torch.bfloat16 or self.head_weight.device.type != "cpu" or not available(self.config):
            return None
        if self._native is None:
            self._native = self.packed("bfloat16")
        return self._native

    def packed(self, precision: Precision) -> NativeDecoder:
        """These weights for the C code, in a serving precision; only where `native` is not None."""
        self._need_matrices()
        weights = [block.weights() for block in self.model.layers if isinstance(block, Block)]
        floats = (self.model.embed_tokens.weight, self.model.norm.weight, (self.rope_cos, self.rope_sin))
        return NativeDecoder(self.config, weights, *floats, precision)

    def release_packed(self) -> None:
        """Give back copies of the weights that were laid out for speed; who needs one makes it again."""
        for copy in (self._native, self._native_head):
            if copy is not None:
                copy.release()
        for block in self.model.layers:
            if isinstance(block, Block):
                for matrices in block.parts().matrices:
                    matrices.base.release()

    def keep_packed_only(self) -> None:
        """Pack the matrices for `native` and give the parameters back: half the memory, for who only serves.

        Nothing else can be done with this decoder then; what needs its matrices raises. The way back is to open the
        model's folder again. Where there is no `native`, nothing happens.
        """
        native = self.native
        if native is None or self.serves_only:
            return
        native.keep_only_copy()
        self.serves_only = True
        for block in self.model.layers:
            if isinstance(block, Block):
                for matrices in block.parts().matrices:
                    matrices.base.drop()
        trim()

    def _need_matrices(self, *_: object) -> None:
        if self.serves_only:
            raise RuntimeError(
                "This decoder serves only: its matrices are packed for the engine and its parameters were given back. "
                "To train, merge or export the model, open its folder again (`load_pretrained`)."
            )

    @property
    def head_weight(self) -> nn.Parameter:
        """The output matrix [V, D], float32: the embedding's own table where the two are tied."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def initialise(self, seed: int = 0, std: float = 0.02) -> Decoder:
        """Random weights for pretraining and tests: normal matrices, norms of one, biases of zero."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    parameter.copy_(torch.empty(parameter.shape).normal_(0, std, generator=generator))
                else:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return self

    def forward(self, tokens_T: Tensor, positions_T: Tensor, layout: Layout) -> Tensor:
        """Hidden states after the final norm, float32 [T, D]."""
        if isinstance(layout.cache, TiledCache):
            native = self.native
            assert native is not None, "only a decoder with `native` reads a TiledCache"
            return native.forward(tokens_T, positions_T, layout)
        self._need_matrices()
        if self.dtype == torch.bfloat16 and layout.cache is None and not self.cut:
            blocks = [block.parts() for block in self.model.layers if isinstance(block, Block)]
            network = Network(self.config, self.dtype, blocks, self.rope_cos, self.rope_sin)
            x_TD = embedding(tokens_T, self.model.embed_tokens.weight)
            return self.model.norm(packed_pass(network, x_TD, positions_T, layout))  # type: ignore[no-any-return]
        rotation = self.rope_cos[positions_T].unsqueeze(1), self.rope_sin[positions_T].unsqueeze(1)
        x_TD = functional.embedding(tokens_T, self.model.embed_tokens.weight)
        for block in self.model.layers:
            x_TD = block(x_TD, rotation, layout)
        return self.model.norm(x_TD)  # type: ignore[no-any-return]

    def logits(self, hidden_TD: Tensor, out: Tensor | None = None) -> Tensor:
        """Next-token logits, float32 [T, V].

        Args:
            out: where they may be written, to save the memory's making: float32 [at least T, V], contiguous.
        """
        if self.dtype == torch.float32:
            return tiled_linear(hidden_TD, self.head_weight)
        if torch.is_grad_enabled() or self.native is None or self.config.hidden_size > MAX_WIDTH:
            return functional.linear(hidden_TD, self.head_weight)
        if self._native_head is None:
            self._native_head = NativeHead(self.head_weight, self.model.norm.weight)
        return self._native_head.logits(hidden_TD, out)
