import {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette, IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ReadonlyPartialJSONObject } from '@lumino/coreutils';

import { Api } from './api';
import { Builds } from './builds';
import { ContainerizeButton, isOurs } from './button';
import { containerizeIcon } from './icon';
import { tellFailedInterrupts } from './interrupts';
import { BuildStatus } from './status';
import { Windows } from './windows';

/** The commands, as keyboard shortcuts and other extensions name them. */
const CommandIDs = {
  containerize: 'docker-kernel:containerize',
  images: 'docker-kernel:images'
};

/** The button, the commands and the windows behind them. */
const plugin: JupyterFrontEndPlugin<void> = {
  id: 'docker-kernel:plugin',
  description: 'Makes a notebook an image that runs anywhere.',
  autoStart: true,
  requires: [INotebookTracker, IToolbarWidgetRegistry],
  optional: [ICommandPalette, IStatusBar, ISettingRegistry],
  activate: (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    toolbars: IToolbarWidgetRegistry,
    palette: ICommandPalette | null,
    statusBar: IStatusBar | null,
    settings: ISettingRegistry | null
  ): void => {
    const { commands, serviceManager } = app;
    const specs = serviceManager.kernelspecs;
    const api = new Api(serviceManager.serverSettings);
    const builds = new Builds(api);
    const windows = new Windows(api, builds);

    toolbars.addFactory<NotebookPanel>(
      'Notebook',
      'containerize',
      panel =>
        new ContainerizeButton(panel, specs, builds, () =>
          windows.openWizard(panel)
        )
    );

    const current = (): NotebookPanel | null => {
      const panel = tracker.currentWidget;
      return panel && isOurs(panel, specs) ? panel : null;
    };
    commands.addCommand(CommandIDs.containerize, {
      label: 'Containerize Notebook…',
      caption: 'Make the notebook an image that runs anywhere',
      icon: args => (args.isPalette ? undefined : containerizeIcon),
      isEnabled: () => current() !== null,
      execute: () => {
        const panel = current();
        if (panel) {
          windows.openWizard(panel);
        }
      }
    });
    commands.addCommand(CommandIDs.images, {
      label: 'Notebook Images…',
      caption: 'Show the images that are being made of notebooks',
      execute: (args: ReadonlyPartialJSONObject) =>
        windows.openList(typeof args.build === 'string' ? args.build : '')
    });
    for (const command of [CommandIDs.containerize, CommandIDs.images]) {
      palette?.addItem({
        command,
        category: 'Notebook Operations',
        args: { isPalette: true }
      });
    }

    statusBar?.registerStatusItem('docker-kernel:builds', {
      item: new BuildStatus(builds, () => windows.openList()),
      align: 'left',
      rank: 100,
      isActive: () => builds.running.length > 0,
      activeStateChanged: builds.changed
    });

    tellFailedInterrupts(commands);

    // Loads the schema, which has the button's place in the toolbar and the menu's items.
    void settings?.load(plugin.id);
    // Those that an earlier page started; a server without our extension has none, and says so when it is asked.
    void app.restored.then(() => builds.refresh()).catch(() => undefined);
  }
};

export default plugin;
