import { NotebookPanel } from '@jupyterlab/notebook';
import { KernelSpec } from '@jupyterlab/services';
import {
  ReactWidget,
  ToolbarButtonComponent,
  UseSignal
} from '@jupyterlab/ui-components';
import React from 'react';

import { Builds } from './builds';
import { containerizeIcon } from './icon';

/** The provisioner of our kernelspecs. */
const PROVISIONER = 'docker-kernel';

/** Whether a notebook's kernel is one of ours. */
export function isOurs(
  panel: NotebookPanel,
  specs: KernelSpec.IManager
): boolean {
  const name = panel.sessionContext.session?.kernel?.name;
  const metadata = name ? specs.specs?.kernelspecs[name]?.metadata : undefined;
  const provisioner = metadata?.kernel_provisioner as
    | { provisioner_name?: string }
    | undefined;
  return provisioner?.provisioner_name === PROVISIONER;
}

/** The button in a notebook's toolbar, there while its kernel is one of ours. */
export class ContainerizeButton extends ReactWidget {
  /**
   * @param panel - The notebook.
   * @param specs - The kernelspecs that the server has.
   * @param builds - Tells whether an image of the notebook is being made.
   * @param localPath - The path of the notebook without its drive.
   * @param open - Opens the wizard.
   */
  constructor(
    private _panel: NotebookPanel,
    private _specs: KernelSpec.IManager,
    private _builds: Builds,
    private _open: () => void
  ) {
    super();
    this.addClass('jp-dockerKernel-Button');
    _panel.sessionContext.kernelChanged.connect(this._showOrHide, this);
    _specs.specsChanged.connect(this._showOrHide, this);
    this._showOrHide();
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._panel.sessionContext.kernelChanged.disconnect(this._showOrHide, this);
    this._specs.specsChanged.disconnect(this._showOrHide, this);
    super.dispose();
  }

  protected render(): JSX.Element {
    return (
      <UseSignal signal={this._builds.changed}>
        {() => {
          const path = this._panel.context.localPath;
          const busy = this._builds.running.some(one => one.notebook === path);
          return (
            <ToolbarButtonComponent
              className={busy ? 'jp-mod-busy' : ''}
              icon={containerizeIcon}
              label={busy ? 'Containerizing…' : 'Containerize'}
              tooltip={
                busy
                  ? 'Show how the image of this notebook is made'
                  : 'Make this notebook an image that runs anywhere'
              }
              onClick={this._open}
            />
          );
        }}
      </UseSignal>
    );
  }

  private _showOrHide(): void {
    this.setHidden(!isOurs(this._panel, this._specs));
  }
}
