import { ISignal, Signal } from '@lumino/signaling';

import { Api, IBuild, IBuildList, IWish } from './api';

/** Milliseconds until the server is asked again after it did not answer. */
const RETRY = 3000;

/** Whether a build goes on. */
export function isRunning(build: IBuild): boolean {
  return build.state === 'running' || build.state === 'cancelling';
}

/**
 * The images that are being made and were made, as the server has them.
 *
 * One request that the server keeps open follows all of them, while any runs.
 */
export class Builds {
  constructor(private _api: Api) {}

  /** Emitted when something changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Emitted when a build that was started here ended. */
  get ended(): ISignal<this, IBuild> {
    return this._ended;
  }

  /** All, the newest first. */
  get all(): readonly IBuild[] {
    return this._all;
  }

  /** Those that go on. */
  get running(): IBuild[] {
    return this._all.filter(isRunning);
  }

  /** A build by its id. */
  get(id: string): IBuild | undefined {
    return this._all.find(one => one.id === id);
  }

  /** Ask the server what there is. */
  async refresh(): Promise<void> {
    this._take(await this._api.builds());
    void this._follow();
  }

  /** Start a build. */
  async start(wish: IWish): Promise<IBuild> {
    const build = await this._api.build(wish);
    this._own.add(build.id);
    this._all = [build, ...this._all.filter(one => one.id !== build.id)];
    this._changed.emit();
    void this._follow();
    return build;
  }

  /** Cancel a build. */
  async cancel(id: string): Promise<void> {
    await this._api.cancel(id);
  }

  private async _follow(): Promise<void> {
    if (this._following) {
      return;
    }
    this._following = true;
    try {
      while (this.running.length > 0) {
        try {
          this._take(await this._api.builds(this._version));
        } catch {
          await new Promise(resolve => setTimeout(resolve, RETRY));
        }
      }
    } finally {
      this._following = false;
    }
  }

  private _take(list: IBuildList): void {
    this._version = list.version;
    this._all = list.builds;
    this._changed.emit();
    for (const id of [...this._own]) {
      const build = this.get(id);
      if (!build || !isRunning(build)) {
        this._own.delete(id);
        if (build) {
          this._ended.emit(build);
        }
      }
    }
  }

  private _all: IBuild[] = [];
  private _version = 0;
  private _following = false;
  private _own = new Set<string>();
  private _changed = new Signal<this, void>(this);
  private _ended = new Signal<this, IBuild>(this);
}
