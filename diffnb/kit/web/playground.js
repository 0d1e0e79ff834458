const box = this.closest('.diffnb-playground'); if (box) {
  const names = ['seed', 'calls', 'eta', 'guidance'];
  const handles = box.querySelectorAll('.diffnb-controls .noUi-handle');
  handles.forEach((o, i) => o.ariaLabel = names[i]);
  box.querySelectorAll('.progress').forEach(o => {
    o.setAttribute('role', 'progressbar'); o.ariaLabel = 'steps of the walk' }) }
