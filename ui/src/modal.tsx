import { ReactWidget } from '@jupyterlab/ui-components';
import { Message } from '@lumino/messaging';
import { PanelLayout, Widget } from '@lumino/widgets';

/**
 * A window over the page, as Lab's dialogs look, for more than they can do: it
 * has pages, keeps Enter to its fields, and is not queued behind others.
 *
 * The browser's own modal dialog keeps the focus inside, gives it back at the
 * end, hides the rest from screen readers, and closes with Escape.
 */
export class Modal extends Widget {
  /**
   * @param label - What a screen reader calls it.
   * @param body - What is in it.
   */
  constructor(label: string, body: ReactWidget) {
    const node = document.createElement('dialog');
    super({ node });
    node.setAttribute('aria-label', label);
    // Lab's keyboard shortcuts are for what is behind.
    node.dataset.lmSuppressShortcuts = 'true';
    this.addClass('jp-dockerKernel-Modal');
    this.addClass('jp-ThemedContainer');
    const layout = new PanelLayout();
    layout.addWidget(body);
    this.layout = layout;
  }

  /** Show it. */
  open(): void {
    Widget.attach(this, document.body);
    this._dialog.showModal();
  }

  /** Close it, for good. */
  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._dialog.close();
    super.dispose();
  }

  /** Dispose of it when the browser has closed it. */
  handleEvent(event: Event): void {
    if (event.target !== this.node) {
      return;
    }
    if (event.type === 'close') {
      this.dispose();
    }
  }

  protected onAfterAttach(msg: Message): void {
    super.onAfterAttach(msg);
    this.node.addEventListener('close', this);
  }

  protected onBeforeDetach(msg: Message): void {
    this.node.removeEventListener('close', this);
    super.onBeforeDetach(msg);
  }

  private get _dialog(): HTMLDialogElement {
    return this.node as HTMLDialogElement;
  }
}
