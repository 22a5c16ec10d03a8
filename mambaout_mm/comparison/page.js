'use strict';

// Figures: drawn from the page's JSON, in the page's colours.
const figures = JSON.parse(document.getElementById('figures').textContent);
const config = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false, // its default is true
  plotlyServerURL: '',
  modeBarButtonsToRemove: ['lasso2d', 'select2d'],
};

function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue(name).trim();
  const axis = old => ({
    automargin: true, ...old, gridcolor: colour('--grid'), linecolor: colour('--line'), zerolinecolor: colour('--muted'),
  });
  return {
    ...layout,
    paper_bgcolor: colour('--page'),
    plot_bgcolor: colour('--page'),
    font: {...layout.font, color: colour('--text'), family: 'system-ui, sans-serif'},
    xaxis: axis(layout.xaxis),
    yaxis: axis(layout.yaxis),
    hoverlabel: {...layout.hoverlabel, bgcolor: colour('--head'), font: {...layout.hoverlabel.font, color: colour('--text')}},
    modebar: {...layout.modebar, color: colour('--muted'), activecolor: colour('--text')},
  };
}

for (const [name, {data, layout}] of Object.entries(figures))
  Plotly.newPlot(name, data, themed(layout), config);

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  for (const name of Object.keys(figures)) {
    const div = document.getElementById(name);
    Plotly.react(div, div.data, themed(div.layout), config);
  }
});

for (const select of document.querySelectorAll('select[data-figure]')) {
  const div = document.getElementById(select.dataset.figure);
  const show = () => {
    const view = figures[div.id].views.find(v => v.key === select.value);
    Plotly.update(
      div,
      {visible: div.data.map(trace => trace.meta === view.key)},
      {'xaxis.title.text': view.x, 'yaxis.title.text': view.y, 'xaxis.autorange': true, 'yaxis.autorange': true},
    );
    document.getElementById(`${div.id}-missing`).textContent = view.missing;
  };
  select.addEventListener('change', show);
  if (select.value !== figures[div.id].views[0].key) show(); // a reload keeps what was selected
}

// Tables: sorted by the buttons in their headings; what is empty goes last either way.
const keyOf = cell => cell.dataset.key ?? cell.textContent.trim();

function sort(th) {
  const table = th.closest('table');
  const direction = th.ariaSort === 'ascending' ? 'descending' : 'ascending';
  for (const other of table.querySelectorAll('th[aria-sort]')) other.ariaSort = 'none';
  th.ariaSort = direction;
  const sign = direction === 'ascending' ? 1 : -1;
  const column = Number(th.dataset.column);
  const numeric = 'numeric' in th.dataset;
  const body = table.tBodies[0];
  const rows = [...body.rows].map(row => [keyOf(row.cells[column]), row]);
  rows.sort(([a], [b]) => {
    if (a === '' || b === '') return (a === '') - (b === '');
    return sign * (numeric ? Number(a) - Number(b) || 0 : a.localeCompare(b, 'en', {numeric: true}));
  });
  body.append(...rows.map(([, row]) => row));
}

for (const button of document.querySelectorAll('th[aria-sort] button'))
  button.addEventListener('click', () => sort(button.closest('th')));

// The table of all records: a row stays if it holds every word and is what each select says.
const body = document.getElementById('records').tBodies[0];
const search = document.getElementById('search');
const selects = [...document.querySelectorAll('select[data-column]')];
const all = [...body.rows].map(row => [row, [...row.cells].map(c => c.textContent).join(' ').toLowerCase()]);

function filter() {
  const words = search.value.toLowerCase().split(/\s+/);
  let count = 0;
  for (const [row, text] of all) {
    const stays = words.every(word => text.includes(word))
      && selects.every(s => s.value === '' || keyOf(row.cells[s.dataset.column]) === s.value);
    row.hidden = !stays;
    count += stays;
  }
  document.getElementById('counter').textContent = `${count} of ${all.length} rows`;
}

search.addEventListener('input', filter);
for (const select of selects) select.addEventListener('change', filter);
filter();
