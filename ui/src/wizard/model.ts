import { IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';

import {
  Api,
  IBuild,
  ICheck,
  INotebook,
  IParameter,
  IParameterEdit,
  IReview,
  IWish
} from '../api';
import { Builds, isRunning } from '../builds';

/** Milliseconds after a keystroke until the server is asked what is wrong. */
const PAUSE = 250;

/** The wizard's pages, in their order. */
export const PAGES = ['Name', 'Parameters', 'Review', 'Build'] as const;

/** The number of a page. */
export enum Page {
  Name,
  Parameters,
  Review,
  Build
}

/** A parameter with what the user made of it: texts, as they stand in fields. */
export interface IRow {
  found: IParameter;
  included: boolean;
  type: string;
  default: string;
  help: string;
}

/** The notebook that a wizard is for. */
export interface ISubject {
  /** Its path, as the server's contents API names it. */
  path: string;
  /** Save it, if it was changed. */
  save(): Promise<void>;
  /** The id of the kernel that it runs on now, if any. */
  kernelId(): string;
}

/** A parameter's default as it stands in a field. */
export function defaultText(one: IParameter): string {
  if (one.default === null) {
    return one.default_source === 'None' ? 'None' : '';
  }
  return typeof one.default === 'string'
    ? one.default
    : JSON.stringify(one.default);
}

/**
 * One wizard: what the user has entered and the server has said. It outlives
 * its window, so that nothing is lost when that is closed.
 */
export class WizardModel implements IDisposable {
  constructor(
    private _subject: ISubject,
    private _api: Api,
    private _builds: Builds
  ) {
    this._builds.changed.connect(this._emit, this);
  }

  page: Page = Page.Name;
  /** What the server is asked for just now, for the user; "" for nothing. */
  busy = '';
  /** What went wrong, in a sentence. */
  error = '';
  notebook: INotebook | null = null;
  name = '';
  tag = 'latest';
  registry = '';
  push = true;
  keepOutputs = false;
  rows: IRow[] = [];
  checked: ICheck = { name: '', problem: '', parameters: {} };
  review: IReview | null = null;
  allowed = new Set<string>();
  excluded = new Set<string>();

  /** Emitted when anything changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** The notebook's path. */
  get path(): string {
    return this._subject.path;
  }

  /** The build that was started, as far as the server still knows it. */
  get build(): IBuild | undefined {
    return this._builds.get(this._build);
  }

  /** Whether the image would be pushed when it is made. */
  get pushes(): boolean {
    return this.push && this.registry !== '';
  }

  /** Why no image can be made of what is on the review page; "" if one can. */
  get refusal(): string {
    const open = (this.review?.findings ?? []).filter(
      one => !this.allowed.has(one.id)
    );
    return this.pushes && open.length > 0
      ? 'The image is not pushed while something in it may be a secret: take it out, or tick it if it is none.'
      : '';
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    window.clearTimeout(this._timer);
    this._abort?.abort();
    Signal.clearData(this);
  }

  /** Change what the user enters, and ask what is wrong with it. */
  set(values: Partial<WizardModel>): void {
    Object.assign(this, values);
    this._checkSoon();
    this._emit();
  }

  /** Change what the user makes of a parameter. */
  setRow(name: string, values: Partial<IRow>): void {
    this.rows = this.rows.map(row =>
      row.found.name === name ? { ...row, ...values } : row
    );
    this._checkSoon();
    this._emit();
  }

  /** Say that a finding is no secret, or take that back. */
  allow(id: string, allowed: boolean): void {
    if (allowed) {
      this.allowed.add(id);
    } else {
      this.allowed.delete(id);
    }
    this._emit();
  }

  /** Leave a file out, or take it back in. */
  async exclude(path: string, excluded: boolean): Promise<void> {
    if (excluded) {
      this.excluded.add(path);
    } else {
      this.excluded.delete(path);
    }
    await this._showReview();
  }

  /** Save the notebook and read what it has; keeps what was entered before. */
  async start(): Promise<void> {
    await this._ask('Reads the notebook…', async () => {
      await this._subject.save();
      const notebook = await this._api.notebook(this.path);
      this.notebook = notebook;
      this.name ||= notebook.names[0] ?? '';
      const before = new Map(this.rows.map(row => [row.found.name, row]));
      this.rows = notebook.parameters.map(found =>
        keepEdits(found, before.get(found.name))
      );
      if (!notebook.registries.includes(this.registry)) {
        this.registry = '';
      }
      await this._check();
    });
  }

  /** Go one page on, if what is on this one can be used. */
  async next(): Promise<void> {
    switch (this.page) {
      case Page.Name:
        return this._ask('Checks the name…', async () => {
          await this._check();
          if (!this.checked.problem) {
            this.page = Page.Parameters;
          }
        });
      case Page.Parameters:
        return this._ask('Checks the parameters…', async () => {
          await this._check();
          if (Object.keys(this.checked.parameters).length === 0) {
            this.page = Page.Review;
            void this._showReview();
          }
        });
      case Page.Review:
        return this._ask('Starts the build…', async () => {
          const wish = { ...this._wish(), allow: [...this.allowed] };
          const build = await this._builds.start(wish);
          this._build = build.id;
          this.page = Page.Build;
        });
      case Page.Build:
        return;
    }
  }

  /** Go one page back. */
  back(): void {
    this._abort?.abort();
    this.busy = '';
    this.error = '';
    this.page = Math.max(0, this.page - 1);
    if (this.page === Page.Review) {
      void this._showReview();
    }
    this._emit();
  }

  /** Cancel the build. */
  cancel(): Promise<void> {
    return this._ask('', () => this._builds.cancel(this._build));
  }

  /** Whether this wizard has done its work, so that the next one begins anew. */
  get done(): boolean {
    const build = this.build;
    return this.page === Page.Build && (!build || build.state === 'made');
  }

  /** Whether the image of this wizard is being made. */
  get building(): boolean {
    return !!this.build && isRunning(this.build);
  }

  private async _showReview(): Promise<void> {
    this._abort?.abort();
    const abort = (this._abort = new AbortController());
    this.error = '';
    this.busy =
      'Looks at the environment, the files, and for secrets: this can take a minute the first time…';
    this._emit();
    try {
      const review = await this._api.plan(this._wish(), abort.signal);
      if (abort.signal.aborted) {
        return;
      }
      this.review = review;
      const ids = new Set(review.findings.map(one => one.id));
      this.allowed = new Set([...this.allowed].filter(id => ids.has(id)));
    } catch (error) {
      if (abort.signal.aborted) {
        return;
      }
      this.review = null;
      this.error = (error as Error).message;
    }
    this.busy = '';
    this._emit();
  }

  private async _ask(busy: string, work: () => Promise<void>): Promise<void> {
    this.busy = busy;
    this.error = '';
    this._emit();
    try {
      await work();
    } catch (error) {
      this.error = (error as Error).message;
    }
    if (this.busy === busy) {
      this.busy = '';
    }
    this._emit();
  }

  private _checkSoon(): void {
    window.clearTimeout(this._timer);
    this._timer = window.setTimeout(() => {
      // What fails here fails again when the user goes on, and is told then.
      this._check().then(
        () => this._emit(),
        () => undefined
      );
    }, PAUSE);
  }

  private async _check(): Promise<void> {
    window.clearTimeout(this._timer);
    const number = ++this._checks;
    const checked = await this._api.check(this._wish());
    if (number === this._checks) {
      this.checked = checked;
    }
  }

  private _wish(): IWish {
    return {
      path: this.path,
      kernel_id: this._subject.kernelId(),
      tag: this.tag ? `${this.name}:${this.tag}` : this.name,
      registry: this.registry,
      push: this.pushes,
      keep_outputs: this.keepOutputs,
      parameters: this.rows.filter(row => row.included).map(edit),
      exclude: [...this.excluded].map(literalPattern)
    };
  }

  private _emit(): void {
    this._changed.emit();
  }

  private _build = '';
  private _checks = 0;
  private _timer = 0;
  private _abort: AbortController | null = null;
  private _isDisposed = false;
  private _changed = new Signal<this, void>(this);
}

/** A parameter as found, with what the user had made of it before. */
function keepEdits(found: IParameter, before?: IRow): IRow {
  const row: IRow = {
    found,
    included: before?.included ?? true,
    type: found.type,
    default: defaultText(found),
    help: found.help
  };
  if (before) {
    if (before.type !== before.found.type) {
      row.type = before.type;
    }
    if (before.default !== defaultText(before.found)) {
      row.default = before.default;
    }
    if (before.help !== before.found.help) {
      row.help = before.help;
    }
  }
  return row;
}

/** What the user changed of a parameter. */
function edit(row: IRow): IParameterEdit {
  const made: IParameterEdit = { name: row.found.name };
  if (row.type !== row.found.type) {
    made.type = row.type;
  }
  if (row.help !== row.found.help) {
    made.help = row.help;
  }
  if (row.default !== defaultText(row.found)) {
    made.default = row.default;
  }
  return made;
}

/** A pattern of .dockerignore that matches just one path. */
function literalPattern(path: string): string {
  return `/${path.replace(/\/$/, '').replace(/[*?[\]\\]/g, '\\$&')}`;
}
