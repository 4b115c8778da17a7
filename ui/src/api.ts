import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

/** A parameter as the server found it in the notebook. */
export interface IParameter {
  name: string;
  type: string;
  /** As JSON has it; null where it is computed, or none. */
  default: unknown;
  /** The default as it stands in the notebook. */
  default_source: string;
  required: boolean;
  help: string;
  choices: unknown[];
}

/** What a user changed of a parameter; what is not there stays as found. */
export interface IParameterEdit {
  name: string;
  type?: string;
  help?: string;
  default?: string;
}

/** What the wizard asks the server for. */
export interface IWish {
  path: string;
  kernel_id?: string;
  tag?: string;
  registry?: string;
  push?: boolean;
  keep_outputs?: boolean;
  parameters?: IParameterEdit[];
  exclude?: string[];
  allow?: string[];
}

/** What the notebook's file says, for the wizard's first pages. */
export interface INotebook {
  names: string[];
  registries: string[];
  parameters: IParameter[];
  tagged: boolean;
  notes: string[];
}

/** What is wrong with a wish: sentences, empty where nothing is. */
export interface ICheck {
  /** The image's whole name, if it can be one. */
  name: string;
  problem: string;
  parameters: {
    [name: string]: { field: 'type' | 'default'; message: string };
  };
}

/** The first rows of a list, and how many it has. */
export interface IRows<T> {
  rows: T[];
  count: number;
}

/** Something that may be a secret; its value never comes here. */
export interface IFinding {
  id: string;
  rule: string;
  where: string;
  hint: string;
}

/** What would be in the image. */
export interface IReview {
  name: string;
  notebook: string;
  environment: {
    reference: string;
    image: string;
    python: string;
    kernel: string;
    /** Whether it is that of the running kernel, with what was installed in it. */
    running: boolean;
  };
  /** In bytes, of the whole image. */
  size: number;
  parameters: IParameter[];
  notes: string[];
  packages: IRows<{ name: string; version: string }>;
  files: IRows<{ path: string; size: number }> & { size: number };
  left_out: IRows<{ path: string; reason: string }>;
  findings: IFinding[];
}

/** One thing that happens while an image is made. */
export interface IStep {
  name: string;
  text: string;
  /** What it does just now, where it tells more. */
  detail: string;
  /** 0 to 1, or null where nobody knows. */
  done: number | null;
}

/** An image in the making, or made. */
export interface IBuild {
  id: string;
  notebook: string;
  name: string;
  state: 'running' | 'cancelling' | 'made' | 'failed' | 'cancelled';
  /** Seconds since the epoch. */
  started: number;
  ended: number | null;
  steps: IStep[];
  /** Why it failed. */
  message: string;
  image: {
    reference: string;
    id: string;
    size: number;
    pushed: string;
    command: string;
  } | null;
  version: number;
}

/** All builds of the server, and the version to ask for what is newer. */
export interface IBuildList {
  version: number;
  builds: IBuild[];
}

/** The requests of the server extension (docker_kernel/server/handlers.py). */
export class Api {
  constructor(private _settings: ServerConnection.ISettings) {}

  /** What the notebook's file says. */
  notebook(path: string): Promise<INotebook> {
    return this._ask('notebook', 'POST', { path });
  }

  /** What is wrong with a name and with parameters. */
  check(wish: IWish): Promise<ICheck> {
    return this._ask('check', 'POST', wish);
  }

  /** What would be in the image. */
  plan(wish: IWish, signal: AbortSignal): Promise<IReview> {
    return this._ask('plan', 'POST', wish, signal);
  }

  /** Start to make the image. */
  build(wish: IWish): Promise<IBuild> {
    return this._ask('builds', 'POST', wish);
  }

  /** All builds; with `since`, when something changes after that version. */
  builds(since?: number): Promise<IBuildList> {
    return this._ask(since === undefined ? 'builds' : `builds?since=${since}`);
  }

  /** Cancel a build. */
  cancel(id: string): Promise<IBuild> {
    return this._ask(`builds/${id}`, 'DELETE');
  }

  private async _ask<T>(
    what: string,
    method = 'GET',
    body?: IWish,
    signal?: AbortSignal
  ): Promise<T> {
    const url = URLExt.join(this._settings.baseUrl, 'docker-kernel', what);
    const init: RequestInit = { method };
    if (body) {
      init.body = JSON.stringify(body);
    }
    if (signal) {
      init.signal = signal;
    }
    // A browser gives up what it asks for when the machine's network changes, as
    // with each container that starts; what begins a build is asked for once.
    let left = method === 'POST' && what === 'builds' ? 0 : 3;
    let answer: Response | undefined;
    while (answer === undefined) {
      try {
        answer = await ServerConnection.makeRequest(url, init, this._settings);
      } catch (error) {
        if (signal?.aborted) {
          throw error;
        }
        if (left-- === 0) {
          throw new Error('The Jupyter server does not answer: is it running?');
        }
        await new Promise(done => setTimeout(done, 250));
      }
    }
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      throw new Error(
        said.message ||
          `The Jupyter server answered ${answer.status} ${answer.statusText}.`
      );
    }
    return said as T;
  }
}
