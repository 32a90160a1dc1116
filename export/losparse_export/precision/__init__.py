"""Other precisions than fp32 for a finished graph.

    int8                 x -> MatMul(W) -> Add(bias)   ->   x -> quantise -> MatMul(int8 W) -> scale -> Add(bias)
    int8-rows            x -> MatMul(W) -> Add(bias)   ->   x -> quantise a row -> MatMul(int8 W) -> scale -> Add(bias)
    int8-static          x -> MatMul(W) -> Add(bias)   ->   x -> QuantizeLinear -> Gemm of dequantised x, W and bias
    int8-, int4-weights  x -> MatMul(W) -> Add(bias)   ->   x -> MatMulNBits(blocks of W, scales) -> Add(bias)
    fp16                 every node but normalisations and softmax in half precision, inputs and outputs in fp32

Only MatMul nodes with a constant float matrix are quantised. A product that shall be quantised must therefore still be
MatMul and Add when it comes here: onnxruntime joins the bias, the scale and, where one product alone reads the input,
the quantisation into one kernel by itself. All readers of an input share its quantisation. A Gemm stays as it is.
Tables of embeddings become int8 rows with a scale each, in all but fp32, where it is an option, and fp16.

Most are made by onnxruntime's own libraries. They work on files, so the graph goes through one in a temporary folder.

base         what a precision is
table        all of them, by name
fp32, fp16, int8, int8_rows, int8_static, int8_weights, int4_weights    one each
apply        the way of a graph through a library and back, by a file of `files`
quantize     integers, by `onnxruntime.quantization`
rows         int8 products with a scale a row
static       int8 products with fixed scales
ranges       what those scales cover
weights      matrices of both
tables       embedding tables as int8 rows; a head that is `tied` to one; with nodes that `emit` inserts
half         half precision, by `onnxruntime.transformers`
"""
