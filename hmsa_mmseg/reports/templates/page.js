'use strict';
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // One picture over another, with a boundary that moves.
  class Card {
    constructor(element) {
      this.element = element;
      this.stage = element.querySelector('.stage');
      this.range = element.querySelector('input[type=range]');
      this.sides = {};
      for (const side of ['over', 'under']) {
        const img = element.querySelector(`.${side}`);
        this.sides[side] = {img, key: img.dataset.key};
      }
      this.name = element.dataset.name;
      this.buttons = all('.picker button', element);
      this.beside = element.querySelector('.beside');
      this.buttons.forEach((button) => button.addEventListener(
        'click', () => this.show('over', button.dataset.key)));
      this.beside.addEventListener(
        'change', () => this.show('under', this.beside.value));
      this.range.addEventListener('input', () => this.cut());
      this.stage.addEventListener('pointerdown', (event) => this.grab(event));
      this.cut();
    }

    // The texts of the pictures are parsed when the first is asked for.
    get pictures() {
      if (!this.parsed) {
        const {over, under} = this.sides;
        const text = this.element.querySelector('script').textContent;
        this.parsed = JSON.parse(text);
        this.parsed[over.key] ??= over.img.src;
        this.parsed[under.key] ??= under.img.src;
      }
      return this.parsed;
    }

    title(key) {
      return [...this.beside.options].find((one) => one.value === key).text;
    }

    has(key) {
      return [...this.beside.options].some((one) => one.value === key);
    }

    show(side, key) {
      if (!this.has(key)) return;
      const {img} = this.sides[side];
      img.src = this.pictures[key];
      this.sides[side].key = key;
      const title = this.title(key);
      img.alt = `${title} of ${this.name}`;
      this.element.querySelector(side === 'over' ? '.left' : '.right')
        .textContent = title;
      this.buttons.forEach((button) => button.setAttribute(
        'aria-pressed', button.dataset.key === this.sides.over.key));
      this.beside.value = this.sides.under.key;
      this.cut();
    }

    cut() {
      const part = Number(this.range.value);
      this.stage.style.setProperty('--cut', `${part}%`);
      const [over, under] = ['over', 'under'].map(
        (side) => this.title(this.sides[side].key));
      this.range.setAttribute('aria-label', `Boundary between ${over} and ${under}`);
      this.range.setAttribute('aria-valuetext', `${Math.round(part)} percent ${over}`);
    }

    grab(event) {
      if (event.button !== 0) return;
      const move = ({clientX}) => {
        const {left, width} = this.stage.getBoundingClientRect();
        this.range.value = 100 * (clientX - left) / width;
        this.cut();
      };
      const drag = new AbortController();
      const listen = (type, listener) => this.stage.addEventListener(
        type, listener, {signal: drag.signal});
      listen('pointermove', move);
      listen('pointerup', (last) => { move(last); drag.abort(); });
      listen('pointercancel', () => drag.abort());
      this.stage.setPointerCapture(event.pointerId);
      // Otherwise what is clicked on takes the focus from the range.
      event.preventDefault();
      this.range.focus({preventScroll: true, focusVisible: false});
      // A finger may be about to scroll the page instead.
      if (event.pointerType !== 'touch') move(event);
    }
  }

  const cards = all('.card:has(.stage)').map((element) => new Card(element));

  // "name" is sorted as text, all else as numbers; what has no number is last.
  const compare = (key, sign) => (first, second) => {
    const [a, b] = [first.dataset[key], second.dataset[key]];
    if (key === 'name') return sign * a.localeCompare(b, 'en', {numeric: true});
    if (a === '' || b === '') return (a === '') - (b === '');
    return sign * (a - b);
  };
  const reorder = (parent, elements) => elements.forEach(
    (element) => parent.append(element));

  const order = document.querySelector('#order');
  order?.addEventListener('change', () => {
    const [key, sign] = order.value.split(' ');
    const elements = cards.map((card) => card.element);
    reorder(document.querySelector('.cards'),
      elements.sort(compare(key, Number(sign))));
  });

  // For all cards, but each only when it comes into view.
  const everywhere = document.querySelector('#everywhere');
  const waiting = new Map();
  const observer = new IntersectionObserver((entries) => {
    for (const {isIntersecting, target} of entries) {
      if (!isIntersecting || !waiting.has(target)) continue;
      const [card, key] = waiting.get(target);
      waiting.delete(target);
      observer.unobserve(target);
      card.show('over', key);
    }
  }, {rootMargin: '300px'});
  everywhere?.addEventListener('change', () => cards.forEach((card) => {
    waiting.set(card.element, [card, everywhere.value]);
    observer.unobserve(card.element);
    observer.observe(card.element);
  }));

  all('table.sortable th button').forEach((button) => {
    button.addEventListener('click', () => {
      const header = button.closest('th');
      const table = header.closest('table');
      const {key} = button.dataset;
      const now = header.getAttribute('aria-sort');
      const first = button.dataset.first;
      const next = now === null || now === 'none' ? first
        : now === 'ascending' ? 'descending' : 'ascending';
      all('th[aria-sort]', table).forEach(
        (other) => other.setAttribute('aria-sort', 'none'));
      header.setAttribute('aria-sort', next);
      const rows = all('tbody tr', table);
      rows.sort(compare(key, next === 'ascending' ? 1 : -1));
      reorder(table.tBodies[0], rows);
    });
  });
})();
