// Sliders over finished pictures: no kernel, no library. Without this file an animation is shown.
function reel(box) {
  const pics = JSON.parse(box.querySelector('script').textContent)
  const kept = pics.map(pic => 'data:image/png;base64,' + pic)
  const image = box.querySelector('img'), bar = box.querySelector('input')
  const button = box.querySelector('button'), last = kept.length - 1
  let timer = 0
  function show(i) { bar.value = i; image.src = kept[i] }
  function stop() { clearInterval(timer); timer = 0; button.textContent = 'Play' }
  function tick() { if (+bar.value >= last) stop(); else show(+bar.value + 1) }
  bar.oninput = () => { stop(); show(+bar.value) }
  button.onclick = () => {
    if (timer) return stop()
    if (+bar.value >= last) show(0)
    button.textContent = 'Pause'
    timer = setInterval(tick, 160)
  }
  box.querySelector('.reel-bar').hidden = false
  show(Math.round(last/2))
}
document.addEventListener('DOMContentLoaded',
  () => document.querySelectorAll('.reel').forEach(reel))
