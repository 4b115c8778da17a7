import { TextItem } from '@jupyterlab/statusbar';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import React from 'react';

import { Builds } from './builds';
import { count } from './format';

/** The status bar's item while images are being made. */
export class BuildStatus extends ReactWidget {
  /**
   * @param builds - What it counts.
   * @param show - Shows all of them.
   */
  constructor(
    private _builds: Builds,
    private _show: () => void
  ) {
    super();
    this.addClass('jp-mod-highlighted');
  }

  protected render(): JSX.Element {
    return (
      <UseSignal signal={this._builds.changed}>
        {() => (
          <TextItem
            role="button"
            tabIndex={0}
            title="Show the notebook images that are being made"
            source={`${count(this._builds.running.length, 'image')} in the making`}
            onClick={this._show}
            onKeyDown={event => {
              if (event.key === 'Enter' || event.key === ' ') {
                this._show();
              }
            }}
          />
        )}
      </UseSignal>
    );
  }
}
