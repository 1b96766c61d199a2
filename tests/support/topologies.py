"""Networks with blocks: residual, inverted residual, transformer."""

from __future__ import annotations

from collections.abc import Callable

from onnx import helper
from zoo import Net, Style

PLAIN = Style()


def strided(n: Net, x: str, out: int, kernel: int = 3, stride: int = 2) -> str:
    y = n.conv(x, out, kernel)
    n.nodes[-1].attribute.append(helper.make_attribute("strides", [stride, stride]))
    return y


def resnet(style: Style = PLAIN) -> Net:
    """A stem, a plain block, a block with strides and a projection, a classifier."""
    n = Net(style, x=(3, 8, 8))
    a = n.qdq(n.op("Relu", n.conv(n.qdq("x", "mid"))))
    b = n.qdq(n.conv(n.qdq(n.op("Relu", n.conv(a)))), "mid")
    c = n.qdq(n.op("Relu", n.op("Add", b, a, out="sum1"), out="block1"))
    d = n.qdq(n.conv(n.qdq(n.op("Relu", strided(n, c, 12))), 12), "mid")
    e = n.qdq(strided(n, c, 12, 1), "mid")
    f = n.qdq(n.op("Relu", n.op("Add", d, e, out="sum2"), out="block2"))
    n.gemm(n.op("Flatten", n.op("GlobalAveragePool", f)), 5)
    return n


def norm_fused(n: Net, x: str, out: str) -> str:
    y = n.layer_norm(x)
    n.nodes[-1].output[0] = out
    assert y != out
    return out


def norm_spelled(n: Net, x: str, out: str) -> str:
    """LayerNormalization in primitive operators."""
    d = n.op("Sub", x, n.op("ReduceMean", x, axes=[-1]))
    v = n.op("ReduceMean", n.op("Pow", d, n.const(out + "_two", 2)), axes=[-1])
    d = n.op("Div", d, n.op("Sqrt", n.op("Add", v, n.const(out + "_eps", 1e-5))))
    c = n.channels(x, -1)
    d = n.op("Mul", d, n.const(out + "_gamma", n.rng.uniform(0.5, 2, c)))
    return n.op("Add", d, n.const(out + "_beta", n.rng.standard_normal(c)), out=out)


def gelu_spelled(n: Net, x: str) -> str:
    return n.gelu(x)


def gelu_tanh(n: Net, x: str) -> str:
    """x/2 (1 + tanh(c (x + k x^3)))."""
    t = n.op("Mul", n.op("Pow", x, n.const(x + "_three", 3)), n.const(x + "_k", 0.044715))
    t = n.op("Tanh", n.op("Mul", n.op("Add", x, t), n.const(x + "_c", 0.7978846)))
    t = n.op("Mul", x, n.op("Add", t, n.const(x + "_one", 1)))
    return n.op("Mul", t, n.const(x + "_half", 0.5))


def transformer(norm: Callable[[Net, str, str], str], gelu: Callable[[Net, str], str]) -> Net:
    """One post-LN layer: attention, Add, norm; two layers with GELU, Add, norm."""
    n = Net(x=(5, 12))
    x = n.qdq("x", "mid")
    q, k, v = (n.qdq(n.matmul(x, 12), "mid") for _ in range(3))
    scores = n.qdq(n.op("Softmax", n.op("MatMul", q, n.op("Transpose", k, perm=[0, 2, 1]))))
    context = n.qdq(n.op("MatMul", scores, v), "mid")
    a = norm(n, n.op("Add", n.matmul(context, 12), "x", out="sum1"), "attention")
    h = n.qdq(gelu(n, n.matmul(n.qdq(a, "mid"), 24)), "mid")
    b = norm(n, n.op("Add", n.matmul(h, 12), a, out="sum2"), "output")
    n.matmul(n.qdq(b, "mid"), 7, bias=False)
    return n
