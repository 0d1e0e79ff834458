// The page: sliders, a worker that draws, and the walk that it sends back, stop by stop.
'use strict'

const get = id => document.getElementById(id)
const names = {'mnist-labels': {calls: 20, most: 50},
               'mnist-turns-labels': {calls: 1, most: 8, learnt: true}}   // its guidance is in it
const models = {}                  // what the worker said of each model that it has
let steps = []                     // the stops of the walk that have arrived
let wanted = Infinity              // the stop to show: the last one that there is
let order = 0                      // number of the newest walk; answers to older ones are dropped
let timer = 0

// ---- In the worker

function work() {
  const diffnb = network(), models = {}, channel = new MessageChannel()
  let newest = 0
  const pause = () => new Promise(go => {          // lets messages in: one may be a newer order
    channel.port1.onmessage = go
    channel.port2.postMessage(0)
  })

  function read({name, bytes}) {
    const {shape, classes, mean, std} = models[name] = diffnb.readModel(bytes)
    postMessage({name, shape, classes, mean, std})
  }

  async function draw({order, name, calls, seed, label, guidance}) {
    newest = order
    const model = models[name], [channels, height, width] = model.shape
    const noise = diffnb.seeded(seed, channels*height*width)
    const stops = diffnb.walk(model, {noise, calls, label, guidance})
    let passes = 0, ms = 0
    while (newest === order) {
      const start = performance.now(), {value, done} = stops.next()
      ms += performance.now() - start
      if (done) return postMessage({order, passes, ms})
      passes += value.passes
      postMessage({order, step: value})
      await pause()
    }
  }

  onmessage = async ({data}) => {
    try { await (data.bytes ? read : draw)(data) }
    catch (error) { postMessage({error: String(error)}) }
  }
}

// ---- What the controls say

const chosen = () => document.querySelector('[name=model]:checked').value
const value = id => Number(get(id).value)

function words() {
  // The words beside each slider, also for those who hear them
  const label = value('label'), any = 'any digit'
  const said = {label: label < 0 ? any : String(label), seed: String(value('seed')),
                calls: String(value('calls')), guidance: value('guidance').toFixed(1)}
  const labels = models[chosen()] ? models[chosen()].classes > 0 : true
  const {learnt} = names[chosen()], alone = learnt || !labels || label < 0
  if (!labels) said.label = any
  if (alone) said.guidance = learnt ? 'learnt' : 'needs a label'
  for (const [id, text] of Object.entries(said)) {
    get(id).setAttribute('aria-valuetext', text)
    get(id).parentNode.querySelector('output').textContent = text
  }
  off('label', !labels)
  off('guidance', alone)
}

function off(id, is) {
  get(id).disabled = is
  get(id).parentNode.classList.toggle('off', is)
}

// ---- Orders to the worker, and its answers

let worker = null

function start() {
  const text = `'use strict'; ${network}; (${work})()`
  worker = new Worker(URL.createObjectURL(new Blob([text], {type: 'text/javascript'})))
  worker.onerror = event => fail(event.message)
  worker.onmessage = ({data}) => {
    if (data.error) return fail(data.error)
    if (data.name) {
      models[data.name] = data
      return renew()
    }
    if (data.order !== order) return
    if (data.step) steps.push(seen(data.step))
    else finish(data)
    show()
  }
}

const diffnb = {
  weights(name, text) {
    // Called by the files of weights, which hold the model's own file as text
    const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer
    worker.postMessage({name, bytes}, [bytes])
  },
}

function load(name) {
  get('said').textContent = 'Loading the network'
  const script = document.createElement('script')
  script.src = `${name}.js`
  script.onerror = () => fail(`${name}.js is not there: this folder is made by tools/page.py`)
  document.head.append(script)
  names[name].asked = true
}

function renew() {
  // Ask for a new walk, as the controls say; the worker drops the old one
  words()
  const name = chosen()
  order += 1
  if (!names[name].asked) load(name)
  if (!models[name]) return
  if (wanted >= Number(get('stop').max)) wanted = Infinity            // stay at the end
  get('stop').max = value('calls')
  get('said').textContent = ''
  steps = []
  worker.postMessage({order, name, calls: value('calls'), seed: value('seed'),
                      label: value('label'),
                      guidance: names[name].learnt ? 1 : value('guidance')})
}

function finish({passes, ms}) {
  const calls = value('calls'), plural = (n, what) => `${n} ${what}${n === 1 ? '' : 's'}`
  const times = passes === calls ? '' : `, ${passes} passes through the network`
  get('said').textContent = `${plural(calls, 'call')}${times}, ${(ms/1000).toFixed(2)} s`
}

function fail(why) {
  // Back to the picture
  get('app').hidden = true
  get('still').hidden = false
  get('sorry').textContent = `This is a picture of it. The page itself does not run here: ${why}`
}

// ---- Pictures

function grey(data, at) {
  // The numbers as an image of one channel; `at` turns one into 0 to 1
  const image = new ImageData(28, 28), pixels = new Uint32Array(image.data.buffer)
  data.forEach((v, i) => {
    const g = Math.round(255*Math.min(1, Math.max(0, at(v))))
    pixels[i] = 0xff000000 | g << 16 | g << 8 | g
  })
  return image
}

const asNoise = v => v/6 + .5                        // from -3, black, to 3, white

function seen({x, phi, image, noise}) {
  // A stop as the page shows it
  const {mean, std} = models[chosen()], asImage = v => (v*std + mean + 1)/2
  return {phi, mixture: grey(x, asImage), image: grey(image, asImage), noise: grey(noise, asNoise)}
}

function show() {
  // The stop that is wanted, or the last one that has arrived
  if (!steps.length) return
  const at = Math.min(wanted, steps.length - 1), {phi} = steps[at]
  const degrees = (phi*180/Math.PI).toFixed(1), total = value('calls')
  const words = {mixture: 'The mixture', image: 'The image guess', noise: 'The noise guess'}
  for (const [id, what] of Object.entries(words)) {
    get(id).getContext('2d').putImageData(steps[at][id], 0, 0)
    get(id).setAttribute('aria-label', `${what} at ${degrees} degrees`)
  }
  get('signal').textContent = Math.cos(phi).toFixed(2)
  get('rate').textContent = Math.sin(phi).toFixed(2)
  get('stop').value = at
  get('stop-words').textContent = `${at} of ${total}, ${degrees}°`
  get('stop').setAttribute('aria-valuetext', `${at} of ${total}, ${degrees} degrees`)
  dial(phi)
  strip(at)
}

function dial(phi) {
  // The quarter circle from noise to image, its stops, and a hand
  const point = angle => [104*Math.cos(angle), 104 - 104*Math.sin(angle)]
  get('stops').innerHTML = steps.map(({phi}) => {
    const [x, y] = point(phi)
    return `<circle cx="${x}" cy="${y}" r="3"></circle>`
  }).join('')
  const [x, y] = point(phi)
  get('hand').setAttribute('x2', x)
  get('hand').setAttribute('y2', y)
}

function strip(at) {
  // All stops side by side: mixtures above, guesses of the image below
  const canvas = get('strip'), total = value('calls') + 1, cell = 32
  canvas.width = cell*total
  canvas.height = 2*cell
  canvas.style.width = `${Math.min(1, 20/total)*cell*total}px`
  const draw = canvas.getContext('2d')
  draw.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--accent')
  draw.fillRect(at*cell, 0, cell, 2*cell)
  steps.forEach(({mixture, image}, i) => {
    draw.putImageData(mixture, i*cell + 2, 2)
    draw.putImageData(image, i*cell + 2, cell + 2)
  })
}

// ---- Hands

function goTo(i) {
  wanted = i
  show()
}

function play(on) {
  clearInterval(timer)
  timer = on ? setInterval(forth, 1600/value('calls')) : 0
  get('play').textContent = on ? 'Stop' : 'Play'
}

function forth() {
  if (wanted >= value('calls')) return play(false)
  goTo(wanted + 1)
}

get('stop').oninput = () => {
  play(false)
  goTo(value('stop'))
}
get('play').onclick = () => {
  if (!timer && value('stop') >= value('calls')) goTo(0)
  play(!timer)
}
get('strip').onclick = event => {
  const {left, width} = get('strip').getBoundingClientRect()
  goTo(Math.floor((event.clientX - left)/width*(value('calls') + 1)))
}
get('controls').oninput = event => {
  if (event.target.name === 'model') {
    const {calls, most, learnt} = names[chosen()]
    get('calls').max = most
    get('label').min = learnt ? 0 : -1               // it knows no picture without a label
    get('calls').value = calls
    wanted = Infinity
  }
  play(false)
  renew()
}
get('controls').onsubmit = event => event.preventDefault()

try {
  start()
  get('app').hidden = false
  get('still').hidden = true
  renew()
} catch (error) { fail(error.message) }
