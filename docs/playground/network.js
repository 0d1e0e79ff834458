// A network of diffnb and its way from noise to a digit, in plain JavaScript, without libraries.
//
// All of it is in one function, so that page.js can hand its text to a worker. The tests run it in
// Node and in Chromium, and compare every answer with PyTorch's. Names follow the Python modules:
// angle, embedding, unet, samplers, guidance, few_steps.
'use strict'

function network({plain = false} = {}) {

  // ---- The file: safetensors, which is a length, a header in JSON, and numbers

  const scales = Float64Array.from({length: 31}, (_, power) => 2**(Math.max(1, power) - 25))

  function half(bits) {
    // A finite 16-bit float: a sign, a power, and ten bits of a number between 1 and 2
    const power = bits >> 10 & 31, number = (power && 1024) + (bits & 1023)
    return (bits >> 15 ? -number : number)*scales[power]
  }

  function numbers(view, {dtype, data_offsets: [start, end]}) {
    // The numbers of one tensor
    const read = {F16: [2, i => half(view.getUint16(i, true))],
                  F32: [4, i => view.getFloat32(i, true)]}[dtype]
    if (!read) throw new Error(`numbers of type ${dtype} are not read here`)
    const [size, at] = read, out = new Float32Array((end - start)/size)
    for (let i = 0; i < out.length; i++) out[i] = at(start + i*size)
    return out
  }

  function readModel(buffer) {
    // A model from the bytes of its file: its settings, and its layers by name
    const start = 8 + new DataView(buffer).getUint32(0, true)
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)))
    const card = JSON.parse(header.__metadata__.diffnb), tensors = {}, shapes = {}
    const view = new DataView(buffer, start)
    for (const [name, entry] of Object.entries(header)) {
      if (name === '__metadata__') continue
      tensors[name] = numbers(view, entry)
      shapes[name] = entry.shape
    }
    for (const [name, shape] of Object.entries(shapes)) {
      if (shape.length === 4) tensors[name] = packed(tensors[name], shape)
    }
    check(card.model)
    const {net, shape, schedule} = card.model, turns = 'net.embed.turn.mlp.0.bias' in tensors
    return {net, shape, turns, signal: schedule.signal, classes: net.classes, tensors,
            mean: tensors.mean[0], std: tensors.std[0]}
  }

  const known = {channels: 1, blocks: 1, attention: [], extra: 0, null: true, block: 'ResBlock',
                 block_args: {shortcut: 3}, attention_args: {kernel: 3, bias: false},
                 head_dim: null, down: 'conv4', up: 'conv', skips: 'level', widen: 'down',
                 narrow: 'up', act: 'GELU', kind: 'angle', norm_last: false, combine: 'cat'}

  function check({target, schedule, net}) {
    // Refuse a model that would need other code than this
    const wanted = Object.entries(known).map(([key, value]) => [key, net[key], value])
    wanted.push(['target', target, 'v'], ['schedule', schedule.name, 'cosine'])
    for (const [key, got, value] of wanted) {
      const [a, b] = [got, value].map(v => JSON.stringify(v))
      if (a !== b) throw new Error(`${key} is ${a}; network.js knows only ${b}`)
    }
  }

  // ---- Memory: one buffer for weights, tables and scratch, which WebAssembly sees too

  const memory = typeof WebAssembly === 'undefined' || plain
    ? {buffer: new ArrayBuffer(2**24)} : new WebAssembly.Memory({initial: 256})
  const floats = new Float32Array(memory.buffer), integers = new Int32Array(memory.buffer)
  let used = 0

  function room(count) {
    // The address of room for so many numbers of 4 bytes, a multiple of 16
    const address = used
    used += 16*Math.ceil(count/4)
    if (used > memory.buffer.byteLength) throw new Error('these models need more memory')
    return address
  }

  function kept(array) {
    // A copy of whole numbers in memory; its address
    const address = room(array.length)
    integers.set(array, address/4)
    return address
  }

  const scratch = room(2**16), results = room(2**16)

  // ---- The inner loop: eight pixels of four channels, a product of 4 x depth by depth x 8

  function slow(starts, steps, end, weights, x, out) {
    // In JavaScript. Pixel k of a channel is the sum over w of weights[w]*x[starts[k] + steps[w]]
    for (let k = 0; k < 8; k += 4) {
      const [p, q, r, s] = integers.subarray(starts/4 + k, starts/4 + k + 4).map(at => (x + at)/4)
      let ap = 0, aq = 0, ar = 0, as = 0, bp = 0, bq = 0, br = 0, bs = 0
      let cp = 0, cq = 0, cr = 0, cs = 0, dp = 0, dq = 0, dr = 0, ds = 0
      for (let at = steps/4, w = weights/4; at < end/4; at++, w += 4) {
        const step = integers[at]/4
        const xp = floats[p + step], xq = floats[q + step]
        const xr = floats[r + step], xs = floats[s + step]
        const a = floats[w], b = floats[w + 1], c = floats[w + 2], d = floats[w + 3]
        ap += a*xp; aq += a*xq; ar += a*xr; as += a*xs
        bp += b*xp; bq += b*xq; br += b*xr; bs += b*xs
        cp += c*xp; cq += c*xq; cr += c*xr; cs += c*xs
        dp += d*xp; dq += d*xq; dr += d*xr; ds += d*xs
      }
      floats.set([ap, bp, cp, dp, aq, bq, cq, dq, ar, br, cr, dr, as, bs, cs, ds], out/4 + 4*k)
    }
  }

  function fast() {
    // The same in WebAssembly, where one instruction multiplies four numbers. Its code, assembled
    const [starts, steps, end, weights, x, out, step, vector] = [0, 1, 2, 3, 4, 5, 6, 15]
    const pixel = k => 7 + k, sum = k => 16 + k, pixels = [0, 1, 2, 3, 4, 5, 6, 7]
    const get = i => [0x20, i], set = i => [0x21, i], tee = i => [0x22, i], add = [0x6a]
    const constant = n => [0x41, n], loadInteger = offset => [0x28, 2, offset]
    const loadVector = [0xfd, 0, 2, 0], loadFour = [0xfd, 9, 2, 0]  // loadFour: one number, 4 times
    const storeVector = offset => [0xfd, 11, 2, offset]
    const addVectors = [0xfd, 0xe4, 1], multiplyVectors = [0xfd, 0xe6, 1]
    const loop = [0x03, 0x40], less = [0x49], repeatIf = [0x0d, 0], close = [0x0b]
    const body = [
      [2, 9, 0x7f, 9, 0x7b],                                    // more locals: 9 numbers, 9 vectors
      ...pixels.map(k => [get(starts), loadInteger(4*k), get(x), add, set(pixel(k))]),
      loop,
      get(steps), loadInteger(0), set(step),
      get(weights), loadVector, set(vector),
      ...pixels.map(k => [get(vector), get(pixel(k)), get(step), add, loadFour, multiplyVectors,
                          get(sum(k)), addVectors, set(sum(k))]),
      get(weights), constant(16), add, set(weights),
      get(steps), constant(4), add, tee(steps), get(end), less, repeatIf,
      close,
      ...pixels.map(k => [get(out), get(sum(k)), storeVector(16*k)]),
      close].flat(Infinity)
    const size = n => n < 128 ? [n] : [n & 127 | 128, n >> 7]
    const name = text => [text.length, ...new TextEncoder().encode(text)]
    const section = (id, ...bytes) => [id, size(bytes.flat(Infinity).length), bytes]
    const code = [
      0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
      section(1, 1, 0x60, 6, Array(6).fill(0x7f), 0),      // one type: six numbers in, none out
      section(2, 1, name('e'), name('m'), 2, 0, 1),             // one import: the memory
      section(3, 1, 0),                                         // one function, of that type
      section(7, 1, name('f'), 0, 0),                           // exported
      section(10, 1, size(body.length), body)].flat(Infinity)
    const made = new WebAssembly.Module(Uint8Array.from(code))
    return new WebAssembly.Instance(made, {e: {m: memory}}).exports.f
  }

  function inner() {
    // `fast` where the browser has vectors, and is allowed to use them
    try { return plain ? slow : fast() }
    catch { return slow }
  }

  const block = inner()

  // ---- Layers. A map is {data, channels, height, width}, its numbers row by row, plane by plane

  function packed(weights, [rows, channels, size]) {
    // The weights of a convolution in the order in which `block` reads them: four rows side by side
    const depth = channels*size*size, address = room(4*Math.ceil(rows/4)*depth)
    for (let row = 0; row < rows; row++) {
      const start = address/4 + (row - row%4)*depth + row%4
      for (let k = 0; k < depth; k++) floats[start + 4*k] = weights[row*depth + k]
    }
    return {address, rows, size}
  }

  function border({data, channels, height, width}) {
    // Copy a map to the scratch, with a border of zeros, one pixel wide
    const wide = width + 2, plane = (height + 2)*wide
    const out = floats.subarray(scratch/4, scratch/4 + channels*plane).fill(0)
    for (let row = 0; row < channels*height; row++) {
      const c = Math.floor(row/height), y = row%height + 1
      out.set(data.subarray(row*width, (row + 1)*width), c*plane + y*wide + 1)
    }
  }

  const layouts = new Map()

  function layout(channels, height, width, size, stride) {
    // Where each window of a bordered map starts, and how far its pixels are from there, in bytes
    const key = [channels, height, width, size, stride].join()
    if (!layouts.has(key)) layouts.set(key, newLayout(channels, height, width, size, stride))
    return layouts.get(key)
  }

  function newLayout(channels, height, width, size, stride) {
    const wide = width + 2, plane = (height + 2)*wide
    const rows = Math.floor((height + 2 - size)/stride) + 1
    const columns = Math.floor((width + 2 - size)/stride) + 1
    const starts = new Int32Array(8*Math.ceil(rows*columns/8))  // those beyond the last are wasted
    for (let i = 0; i < rows*columns; i++) {
      starts[i] = 4*stride*(Math.floor(i/columns)*wide + i%columns)
    }
    const depth = channels*size*size, steps = Int32Array.from({length: depth}, (_, k) => {
      const c = Math.floor(k/size**2), y = Math.floor(k/size)%size, x = k%size
      return 4*(c*plane + y*wide + x)
    })
    return {rows, columns, starts: kept(starts), steps: kept(steps), depth}
  }

  function conv(net, name, map, stride = 1) {
    // A convolution with a border of one pixel. Nearly all of the time is spent here
    const {address, rows: channels, size} = net.tensors[name + '.weight']
    const bias = net.tensors[name + '.bias']                    // none in queries, keys and values
    const {rows: height, columns: width, starts, steps, depth} =
      layout(map.channels, map.height, map.width, size, stride)
    const n = height*width, data = new Float32Array(channels*n)
    border(map)
    for (let i = 0; i < channels; i += 4) {
      for (let j = 0; j < n; j += 8) {
        block(starts + 4*j, steps, steps + 4*depth, address + 4*i*depth, scratch, results + 16*j)
      }
      for (let row = i; row < Math.min(i + 4, channels); row++) {
        const shift = bias ? bias[row] : 0, from = results/4 + row - i
        for (let k = 0; k < n; k++) data[row*n + k] = floats[from + 4*k] + shift
      }
    }
    return {data, channels, height, width}
  }

  function dense(net, name, vector) {
    // A dense layer
    const weights = net.tensors[name + '.weight'], n = vector.length
    return net.tensors[name + '.bias'].map((bias, row) => {
      let sum = bias
      for (let k = 0; k < n; k++) sum += weights[row*n + k]*vector[k]
      return sum
    })
  }

  function norm(net, name, map) {
    // Group norm, in place
    const weight = net.tensors[name + '.weight'], bias = net.tensors[name + '.bias']
    const {data, channels, height, width} = map, n = height*width
    const group = channels/net.net.groups
    for (let first = 0; first < channels; first += group) {
      const part = data.subarray(first*n, (first + group)*n)
      let sum = 0, squares = 0
      for (const v of part) sum += v
      const mean = sum/part.length
      for (const v of part) squares += (v - mean)**2
      const scale = 1/Math.sqrt(squares/part.length + 1e-5)
      for (let i = 0; i < part.length; i++) {
        const c = first + Math.floor(i/n)
        part[i] = (part[i] - mean)*scale*weight[c] + bias[c]
      }
    }
    return map
  }

  const silu = v => v/(1 + Math.exp(-v))

  function erf(v) {
    // The error function to 1.5e-7: Abramowitz and Stegun, 7.1.26
    const t = 1/(1 + .3275911*Math.abs(v))
    const tail = ((((1.061405429*t - 1.453152027)*t + 1.421413741)*t - .284496736)*t
                  + .254829592)*t*Math.exp(-v*v)
    return v < 0 ? tail - 1 : 1 - tail
  }

  const gelu = v => v*(1 + erf(v*Math.SQRT1_2))/2

  function each(map, f) {
    // Apply f to every number, in place
    for (let i = 0; i < map.data.length; i++) map.data[i] = f(map.data[i])
    return map
  }

  function shift(map, vector) {
    // Add one number to each channel, in place
    const n = map.height*map.width
    vector.forEach((v, c) => { for (let i = c*n; i < (c + 1)*n; i++) map.data[i] += v })
    return map
  }

  function add(map, other) {
    // Add another map, in place
    for (let i = 0; i < map.data.length; i++) map.data[i] += other.data[i]
    return map
  }

  function stack(a, b) {
    // The channels of one map, then those of the other
    const data = new Float32Array(a.data.length + b.data.length)
    data.set(a.data)
    data.set(b.data, a.data.length)
    return {...a, data, channels: a.channels + b.channels}
  }

  function doubled({data, channels, height, width}) {
    // Twice as high and wide: every pixel becomes four
    const out = new Float32Array(4*data.length)
    for (let i = 0; i < out.length; i++) {
      const y = Math.floor(i/(2*width)), x = i%(2*width)       // y counts through all channels
      out[i] = data[(y >> 1)*width + (x >> 1)]
    }
    return {data: out, channels, height: 2*height, width: 2*width}
  }

  function resBlock(net, name, map, emb) {
    // Two convolutions, the embedding between them, plus what came in
    const one = norm(net, name + '.one.norm', conv(net, name + '.one.conv', map))
    each(shift(one, dense(net, name + '.one.dense', emb.map(silu))), silu)
    const change = each(norm(net, name + '.norm', conv(net, name + '.two', one)), silu)
    const mixes = name + '.skip.weight' in net.tensors
    return add(change, mixes ? conv(net, name + '.skip', map) : map)
  }

  function attention(net, name, map) {
    // Each pixel collects from all pixels, in several heads
    const {channels, height, width} = map, n = height*width, heads = net.net.heads
    const size = channels/heads, all = conv(net, name + '.qkv', map).data
    const got = {...map, data: new Float32Array(map.data.length)}
    for (let head = 0; head < heads; head++) {
      const [q, k, v] = [0, 1, 2].map(part => {
        const start = (part*channels + head*size)*n
        return all.subarray(start, start + size*n)
      })
      for (let i = 0; i < n; i++) collect(q, k, v, i, n, size, got.data, head*size*n)
    }
    return add(conv(net, name + '.out', got), map)
  }

  function collect(q, k, v, i, n, size, out, start) {
    // What pixel i collects in one head
    const weights = new Float32Array(n)
    for (let j = 0; j < n; j++) {
      for (let c = 0; c < size; c++) weights[j] += q[c*n + i]*k[c*n + j]/Math.sqrt(size)
    }
    const top = Math.max(...weights)
    let total = 0
    for (let j = 0; j < n; j++) total += weights[j] = Math.exp(weights[j] - top)
    for (let c = 0; c < size; c++) {
      let sum = 0
      for (let j = 0; j < n; j++) sum += weights[j]*v[c*n + j]
      out[start + c*n + i] = sum/total
    }
  }

  // ---- The network: embedding and U

  function features(phi, count) {
    // Sines and cosines of the angle, rounded to 32 bits where PyTorch rounds
    const f = Math.fround, reading = f(f(phi)*f(2000/Math.PI)), pairs = count/2
    const turned = Array.from({length: pairs}, (_, i) =>
      f(reading*f(f(1e-4)**f(i/(pairs - 1)))))
    return [...turned.map(Math.sin), ...turned.map(Math.cos)]
  }

  function angleEmbed(net, name, phi) {
    // Features of an angle, through two dense layers
    const seen = features(phi, net.net.features*net.net.width)
    return dense(net, name + '.mlp.2', dense(net, name + '.mlp.0', seen).map(gelu))
  }

  function embed(net, phi, turn, label) {
    // Angle, label and turn as one vector; label -1 is 'no label'
    let emb = [...angleEmbed(net, 'net.embed.angle', phi)]
    if (net.classes) {
      const rows = net.tensors['net.embed.label.rows.weight'], n = emb.length
      emb = emb.concat([...rows.subarray((label + 1)*n, (label + 2)*n)])
    }
    if (net.turns) {
      const more = angleEmbed(net, 'net.embed.turn', turn)
      emb = emb.map((v, i) => v + more[i])
    }
    return emb
  }

  function level(net, name, map, emb, deeper) {
    // One level of the U: a block down, whatever lies deeper, a block up that also sees the skip
    const skip = resBlock(net, name + '.downs.0', map, emb), inner = name + '.inner'
    const below = () => {
      const small = conv(net, inner + '.0', skip, 2)
      return conv(net, inner + '.2.1', doubled(level(net, inner + '.1', small, emb, deeper - 1)))
    }
    const back = deeper === 0 ? mid(net, inner, skip, emb) : below()
    return resBlock(net, name + '.ups.0', stack(skip, back), emb)
  }

  function mid(net, name, map, emb) {
    // The bottom of the U
    const h = resBlock(net, name + '.1', conv(net, name + '.0', map), emb)
    if (!net.net.mid_attention) return h
    return resBlock(net, name + '.3', attention(net, name + '.2', h), emb)
  }

  function predict(net, x, phi, turn = 0, label = -1) {
    // The network's answer v to a mixture: a Float32Array in, and one of the same length out
    const [channels, height, width] = net.shape, emb = embed(net, phi, turn, label)
    const h = conv(net, 'net.first', {data: x, channels, height, width})
    return conv(net, 'net.last.0', level(net, 'net.levels', h, emb, net.net.mults.length - 1)).data
  }

  // ---- From noise to a digit

  function seeded(seed, n) {
    // Noise: n normal numbers, the same for the same seed (mulberry32, then Box and Muller)
    let state = (seed + 1)*0x9E3779B9 | 0
    const uniform = () => {
      state = state + 0x6D2B79F5 | 0
      let t = Math.imul(state ^ state >>> 15, 1 | state)
      t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t
      return ((t ^ t >>> 14) >>> 0)/2**32
    }
    return Float32Array.from({length: n}, () =>
      Math.sqrt(-2*Math.log(1 - uniform()))*Math.cos(2*Math.PI*uniform()))
  }

  function path({signal: [high, low]}, calls) {
    // The angles from noise to the image, in equal steps; the last is 0
    const start = Math.acos(high), end = Math.acos(low)
    const stops = Array.from({length: calls}, (_, i) => start + (end - start)*(1 - i/calls))
    return [...stops, 0]
  }

  const mixed = (a, x, b, y) => x.map((v, i) => a*v + b*y[i])

  function guess(net, x, phi, turn, label, guidance) {
    // Both halves of a mixture. Guidance goes from the answer without the label to that with it
    let v = predict(net, x, phi, turn, guidance === 0 ? -1 : label), passes = 1
    if (label >= 0 && guidance !== 0 && guidance !== 1) {
      v = mixed(guidance, v, 1 - guidance, predict(net, x, phi, turn, -1))
      passes = 2
    }
    const a = Math.cos(phi), s = Math.sin(phi)
    return {image: mixed(a, x, -s, v), noise: mixed(s, x, a, v), passes}
  }

  function* walk(net, {noise, calls, label = -1, guidance = 1}) {
    // DDIM; for a network that is told how far to turn, one long turn a call. calls + 1 stops
    const stops = path(net, calls)
    let x = noise
    for (let i = 0; i < calls; i++) {
      const phi = stops[i], next = stops[i + 1]
      const halves = guess(net, x, phi, phi - next, net.classes ? label : -1, guidance)
      yield {x, phi, ...halves}
      x = mixed(Math.cos(next), halves.image, Math.sin(next), halves.noise)
      if (i === calls - 1) yield {x, phi: next, ...halves, passes: 0}
    }
  }

  return {readModel, predict, seeded, path, walk, vectors: block !== slow}
}

if (typeof module !== 'undefined') module.exports = network
