import { HTMLSelect } from '@jupyterlab/ui-components';
import React from 'react';

import { baseName } from '../format';
import { Checkbox, Field } from './fields';
import { WizardModel } from './model';

/** Today, as a tag. */
function today(): string {
  const now = new Date();
  const two = (number: number) => String(number).padStart(2, '0');
  return `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`;
}

/** What the image is called, and where it goes. */
export function NamePage({ model }: { model: WizardModel }): JSX.Element {
  const registries = model.notebook?.registries ?? [];
  return (
    <>
      <p>
        {baseName(model.path)} and the environment of its kernel become an
        image: it runs anywhere without Jupyter, and leaves the executed
        notebook and a report in HTML.
      </p>
      <div className="jp-dockerKernel-pair">
        <Field
          id="docker-kernel-name"
          label="Name"
          problem={model.checked.problem}
        >
          <input
            className="jp-mod-styled"
            list="docker-kernel-names"
            autoComplete="off"
            spellCheck={false}
            required
            autoFocus
            value={model.name}
            onChange={event => model.set({ name: event.target.value })}
          />
        </Field>
        <Field id="docker-kernel-tag" label="Tag">
          <input
            className="jp-mod-styled"
            list="docker-kernel-tags"
            autoComplete="off"
            spellCheck={false}
            placeholder="latest"
            value={model.tag}
            onChange={event => model.set({ tag: event.target.value })}
          />
        </Field>
      </div>
      <datalist id="docker-kernel-names">
        {(model.notebook?.names ?? []).map(name => (
          <option key={name} value={name} />
        ))}
      </datalist>
      <datalist id="docker-kernel-tags">
        <option value="latest" />
        <option value={today()} />
      </datalist>
      <Field
        id="docker-kernel-registry"
        label="Registry"
        hint={
          registries.length > 0
            ? ''
            : 'To push images to a registry, name one in [registries] of the config file.'
        }
      >
        <HTMLSelect
          value={model.registry}
          onChange={event => model.set({ registry: event.target.value })}
        >
          <option value="">None: the image stays on this machine</option>
          {registries.map(name => (
            <option key={name} value={name}>
              {name}
            </option>
          ))}
        </HTMLSelect>
      </Field>
      {model.registry && (
        <Checkbox
          id="docker-kernel-push"
          label="Push the image when it is made"
          checked={model.push}
          onChange={push => model.set({ push })}
        />
      )}
      <Checkbox
        id="docker-kernel-keep-outputs"
        label="Keep the notebook’s present outputs in the image"
        checked={model.keepOutputs}
        onChange={keepOutputs => model.set({ keepOutputs })}
      />
      <div className="jp-dockerKernel-fullName" role="status">
        {model.checked.name && (
          <>
            The image will be called <code>{model.checked.name}</code>
          </>
        )}
      </div>
    </>
  );
}
