const box = this.closest('.diffnb-scrubber'); if (box) {
  const name = (what, words) =>
    box.querySelectorAll(what).forEach((o, i) => o.ariaLabel = words[i]);
  name('.widget-play button', ['Play or pause', 'Back to the start', 'Play for ever']);
  box.querySelectorAll('.widget-play button').forEach(o => o.title = o.ariaLabel);
  name('.noUi-handle', ['Step of the walk', 'Milliseconds a frame']);
  const pictures = [...this.closest('.diffnb-walks').querySelectorAll('img')];
  box.querySelector('.noUi-handle').ariaValueText = pictures.map(o => o.alt).join('; ') }
