const get = id => document.getElementById(id), bar = get('bar'), button = get('play')
const figures = document.querySelectorAll('figure'), last = frames.length - 1
let timer = 0
walks.forEach(walk => Object.values(walk).forEach(step => {
  step.kept = new Image(); step.kept.src = step.src }))
function show(i) {
  i = Math.max(0, Math.min(last, i)); bar.value = i
  figures.forEach((figure, k) => {
    const step = walks[k][frames[i][k]], img = figure.querySelector('img')
    img.src = step.src; img.alt = step.alt
    figure.querySelector('figcaption').innerHTML = step.words })
  bar.setAttribute('aria-valuetext', walks.map((walk, k) => walk[frames[i][k]].alt).join('; '))
}
function stop() { clearTimeout(timer); timer = 0; button.textContent = 'Play' }
function wait() { timer = setTimeout(tick, ms*get('pace').value) }
function tick() {
  if (+bar.value >= last) return stop()
  show(+bar.value + 1); wait()
}
function play() {
  if (timer) return stop()
  if (+bar.value >= last) show(0)
  button.textContent = 'Pause'; wait()
}
bar.oninput = () => { stop(); show(+bar.value) }
button.onclick = play
document.onkeydown = event => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName == 'SELECT') return
  const at = +bar.value, moves = { ArrowRight: at + 1, ArrowUp: at + 1,
    ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: last }
  const to = moves[event.key]
  if (to !== undefined) { stop(); show(to); event.preventDefault() }
  else if (event.key == ' ' && event.target != button) { play(); event.preventDefault() }
}
document.querySelector('.controls').hidden = false; show(0)
