"""A torch file of our own, read before any other: children of a process that has read it run at full speed.

CPython adapts its bytecode to what it has seen, and a forked child begins with what its parent had adapted.
"""

from __future__ import annotations

import base64
import zlib

from auditor.artifact.byte_source import ByteSource
from auditor.artifact.pickle_guard.examine import examine

__all__ = ["SAMPLE", "warm_up"]

# Four tensors of 2 x 2 numbers as torch.save writes them, compressed.
SAMPLE = zlib.decompress(
    base64.b85decode(
        b"c-jl_W@Zs#fB;2?i;9aUzF=Zt0AT^3NMccPMrK*6eoA6VqFzCEP6JbIA%jMQ3{Wa3zbG-jG%vLz-arq`PRTFN(<@KSOwTAOW"
        b"K1r}2Wr)eFD=Q;DdvhVN=+)w%t?taNzE(HFN!ZS;?mHFU<aB~3{;nxo(fUU<(8A5SP~2o;)-"
        b"Ad${R#51IgrqQZE)DT@vWcpy35{8v~dqfwDmgOFEO2^K){5CS~U56?6F)rKA?6rnqD#mvCv61eF98=>SzlNMUn$X#vdH%+zw"
        b"WA=R9%3vxDUcpGAdH!HOqZbUVQ>tTksA$oYTQ_I=LRCBgIP*tg307|ZCwS6qf24sP-AX2VKsw_#(2bqwQSyGadimK`2y!23z"
        b"wIIxoq^T^ms2FIsF&C=xBP%-"
        b"=gK``Q^P%NDeS@=S&e)zk<6}2#=1e;v+l~aih7{;EqCl@Prd~!S5oX+F4Gc7Z;t8YVLD!8QCkWkQ%vfRw!*aCPL1_18#)vC)"
        b"&FKC{Xs%*Lk2&J?ZbR2=NW9)p=z5Ka*Q>{Z9&-WSte{|JU<blgz}UzFWhw>$+60M%"
    )
)
"""A harmless torch file of a few kilobytes."""


def warm_up(rounds: int = 24) -> None:
    """Reads the sample often enough for every step of the way to be adapted."""
    for _ in range(rounds):
        examine(ByteSource(SAMPLE))
