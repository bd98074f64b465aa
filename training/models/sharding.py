"""Sharded weights (FSDP2): each process holds a share of each frozen layer and gathers the layer when it runs.

Only the frozen weights of the decoder's layers are sharded. Embeddings, the output head and the adapter's factors stay
whole on each process, so gradients are summed and adapters are saved as without sharding. Source:
https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from ingest.errors import UserError
from training.models.devices import plain_weights
from training.models.parallel import processes


def shard_layers(model: PreTrainedModel) -> None:
    """Shard the frozen parameters of each decoder layer over all processes, in place.

    Raises UserError for quantised weights, and for a model whose layers are not known.
    """
    if not plain_weights(model):
        raise UserError("4-bit weights cannot be sharded; set REHEARSAL_QUANTIZE=none, or learner.shard=false")
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        raise UserError(f"the layers of {type(model).__name__} are not known, so they cannot be sharded")
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (processes(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params={p for p in layer.parameters() if p.requires_grad})
