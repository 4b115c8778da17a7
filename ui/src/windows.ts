import { Notification } from '@jupyterlab/apputils';
import { NotebookPanel } from '@jupyterlab/notebook';

import { Api, IBuild } from './api';
import { Builds } from './builds';
import { baseName } from './format';
import { BuildList } from './list';
import { Modal } from './modal';
import { sentence } from './wizard/buildView';
import { WizardModel } from './wizard/model';
import { Wizard } from './wizard/wizard';

/** Opens the windows, one at a time, and keeps what was entered in them. */
export class Windows {
  constructor(
    private _api: Api,
    private _builds: Builds
  ) {
    this._builds.ended.connect((_, build) => this._tell(build));
  }

  /** Open the wizard of a notebook, where it was left. */
  openWizard(panel: NotebookPanel): void {
    const { context, sessionContext } = panel;
    const path = context.localPath;
    let model = this._models.get(path);
    if (!model || model.done) {
      model?.dispose();
      model = new WizardModel(
        {
          path,
          save: async () => {
            if (context.model.dirty && !context.model.readOnly) {
              await context.save();
            }
          },
          kernelId: () => sessionContext.session?.kernel?.id ?? ''
        },
        this._api,
        this._builds
      );
      this._models.set(path, model);
    }
    const wizard = new Wizard(model, () => this._close());
    this._show(`Containerize ${baseName(path)}`, wizard, model);
    if (!model.building) {
      void model.start();
    }
  }

  /**
   * Show all images that are being made, and were.
   *
   * @param first - The id of the build that is shown open.
   */
  openList(first = ''): void {
    const list = new BuildList(this._builds, () => this._close(), first);
    this._show('Notebook images', list, null);
  }

  private _show(
    label: string,
    body: Wizard | BuildList,
    model: WizardModel | null
  ): void {
    this._close();
    this._modal = new Modal(label, body);
    this._shown = model;
    this._modal.disposed.connect(() => {
      this._shown = null;
    });
    this._modal.open();
  }

  private _close(): void {
    this._modal?.dispose();
    this._modal = null;
  }

  /** Tell of a build's end, where its wizard does not show it. */
  private _tell(build: IBuild): void {
    const seen = this._shown?.build?.id === build.id;
    if (seen || build.state === 'cancelled') {
      return;
    }
    const text =
      build.state === 'failed'
        ? `${sentence(build)} ${build.message}`
        : sentence(build);
    Notification.emit(text, build.state === 'failed' ? 'error' : 'success', {
      autoClose: false,
      actions: [{ label: 'Show', callback: () => this.openList(build.id) }]
    });
  }

  private _modal: Modal | null = null;
  private _shown: WizardModel | null = null;
  private _models = new Map<string, WizardModel>();
}
