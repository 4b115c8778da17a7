import { LabIcon } from '@jupyterlab/ui-components';

/** A box with a notebook's lines on it. */
export const containerizeIcon = new LabIcon({
  name: 'docker-kernel:containerize',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="#616161">
    <path d="M12 1.6 21.5 6.4V17.6L12 22.4 2.5 17.6V6.4ZM12 3.9 5.7 7 12 10.2 18.3 7ZM4.5 8.7V16.3L11 19.6V12ZM19.5 8.7 13 12V19.6L19.5 16.3Z"/>
  </g>
</svg>`
});
