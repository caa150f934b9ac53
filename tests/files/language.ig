ig 1
module @"every facet" weights("language.safetensors") {
  dim N in 1..64
  dim S in 1..
  graph @main(%x: f32[N, 4, 8, 8], %"input:0": i64[2*N + 1, S], %flags: bool[]) -> (y: f32[N, 8, 8, 8], "in": f32[N, 4, 8, 8], "a/b": i64[2*N + 1, S]) {
    %w = const @"conv1.weight" : q<i8, f32, scale=@"conv1.scale", zero=@"conv1.zero", axis=0>[8, 4, 3, 3]{nm 2:4 axis=1} in "sram" loc("conv1.weight")
    %k = const @"head/kernel:0" : i4[8, 8]{block 4x4}
    %t = const @"table" : bf16[2, 9]{csr}
    %c = const @"table" : bf16[2, 9]{channels axis=0 kept=[0, 1]}
    %0 = const 0.1 : f32[]
    %1 = const [1.0, -0.0, inf, -inf, 1e+30, 3.4028235e+38] : f32[6]
    %2 = const [true, false] : bool[2]
    %3 = const [] : f16[0]
    %4 = const [-8, 7] : i4[2]
    %5 = const [18446744073709551615] : u64[1]
    %6 = const [0.0625, 448.0] : f8e4m3fn[2]
    %7 = const [-3, 4] : q<i8, f32, scale=0.5, zero=-1>[2]
    %8 = const [0.5] : q<f8e4m3fn, f32, scale=0.5, zero=1.0>[1]
    %9 = const [true, true, false] : sign<f32, scale=0.5, axis=0>[3]
    %10 = const [-1, 0, 1] : pow2<4, f32, bias=3>[3]
    %11 = const [0, 1, 2, 3, 4, 5, 6, 7] : q<u8, f16, scale=0.125, axis=0, group=4>[8]
    %lo, %"hi/0" = shape.split(%x) {axis = 1, sizes = [1, 3]} : f32[N, 1, 8, 8], f32[N, 3, 8, 8] loc("split", "slice" via "join-splits", "second")
    %padded = shape.pad(%x) {mode = "edge", pads = [0, 0, 0, 1, 0, 0, 0, 1]} : f32[N, 4, 8, 10] loc(via "pad-in-front")
    %w32 = quant.dequantize(%w) {to = f32} : f32[8, 4, 3, 3]
    %12 = nn.conv(%x, %w32) {pads = [1, 1, 1, 1]} : f32[N, 8, 8, 8]
    %13 = math.leaky_relu(%12) {alpha = -1.5e-05} : f32[N, 8, 8, 8]
    %14 = quant.quantize(%13) {to = q<i8, f32, scale=@"conv1.scale", axis=1>} : q<i8, f32, scale=@"conv1.scale", axis=1>[N, 8, 8, 8]
    %15 = quant.dequantize(%14) {to = f32} : f32[N, 8, 8, 8]
    %16 = shape.reshape(%15) {shape = [8*N, ?]} : f32[8*N, 64]
    %17 = approx.poly(%16) {coeffs = [1.0, nan, -inf]} : f32[8*N, 64]
    %18 = dyn.apply(%17, %"input:0") {fixed = {keepdims = false}, op = "math.reduce_sum", params = ["axes"]} : f32[?]
    %19 = math.einsum(%17, %17) {equation = "ij,kj->ik"} : f32[8*N, 8*N]
    %20 = tile.kernel(%x, %x) {body = graph @add_relu(%a: f32[N, 4, 8, 8], %b: f32[N, 4, 8, 8]) -> (sum: f32[N, 4, 8, 8]) {
      %0 = math.add(%a, %b) : f32[N, 4, 8, 8]
      %1 = math.relu(%0) : f32[N, 4, 8, 8] loc("relu")
      return %1
    }} : f32[N, 4, 8, 8]
    return %12, %20, %"input:0"
  }
  graph @encrypted(%m: cipher<ckks, level=7, scale=2^40, packing="rows">[64, 64]) -> (m: cipher<ckks, level=7, scale=2^40, packing="rows">[64, 64]) {
    return %m
  }
  graph @nothing() -> () {
    return
  }
}
