<#
.SYNOPSIS
From nothing to a working flux2-mcp in the agent hosts on this machine; with -Uninstall, back.

.DESCRIPTION
  powershell -ExecutionPolicy Bypass -File install\install.ps1     from the checkout that it stands in
  ... -From SOURCE     from another folder or a git URL (git+https://...)
  ... -ToolOnly        no host entries: for those who add the plugin instead
  ... -Uninstall       takes out the entries (yours, and those of the folder you are in), the tool, and uv where this script
                       brought it; images and the journal stay

Through a pipe: & ([scriptblock]::Create((irm URL))) -From SOURCE

It needs Python 3.11 or later. uv is used where it is found, else fetched from the package index by pip or pipx. Nothing is
downloaded from anywhere else. All of it is one function, called on the last line: of a script that was cut on its way,
nothing runs. Windows PowerShell 5.1 or later.
#>
param([string]$From, [switch]$ToolOnly, [switch]$Uninstall)

function Install-Flux2([string]$From, [bool]$ToolOnly, [bool]$Uninstall, [string]$Script) {
  $PUBLISHED = 'no'
  $ErrorActionPreference = 'Stop'
  $env:UV_PYTHON_DOWNLOADS = 'never' # not from the index
  $tool = 'flux2-mcp'
  $mine = Join-Path $env:LOCALAPPDATA 'flux2-mcp-uv' # the uv that this script brought
  $state = @{ Step = ''; BroughtUv = $false; BroughtTool = $false; Uv = $null }

  function Say([string]$Text) { Write-Output "- $Text" }

  # What a program prints; nothing where it fails. What it says on stderr is no error of ours, which it else is in 5.1.
  function Read-Program([string]$Program, [string[]]$Arguments) {
    $ErrorActionPreference = 'Continue'
    return & $Program @Arguments 2> $null
  }

  # A program's own words go to the screen; an exit code other than 0 stops.
  function Invoke-Program([string]$Program, [string[]]$Arguments) {
    & $Program @Arguments
    if ($LASTEXITCODE -ne 0) { throw "$Program ended with $LASTEXITCODE" }
  }

  function Find-Uv {
    $onPath = Get-Command uv -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
    $places = @((Join-Path $mine 'bin\uv.exe'), (Join-Path $env:USERPROFILE '.local\bin\uv.exe'))
    if ($onPath) { $places = @($onPath.Source) + $places }
    return $places | Where-Object { Test-Path $_ } | Select-Object -First 1
  }

  function Get-Uv {
    $state.Step = 'fetching uv from the package index'
    $state.BroughtUv = $true
    $python = @('py', 'python3', 'python') | Where-Object {
      (Get-Command $_ -ErrorAction SilentlyContinue) -and (Read-Program $_ @('-m', 'pip', '--version'))
    } | Select-Object -First 1
    # Into a folder of its own: easily taken back.
    if ($python) {
      Invoke-Program $python @('-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--target', $mine, 'uv') | Out-Host
    } elseif (Get-Command pipx -ErrorAction SilentlyContinue) {
      $env:PIPX_HOME = Join-Path $mine 'pipx'
      $env:PIPX_BIN_DIR = Join-Path $mine 'bin'
      Invoke-Program 'pipx' @('install', '--quiet', 'uv') | Out-Host
    } else {
      throw 'there is neither uv, nor pip, nor pipx. Install Python 3.11 or later first'
    }
    return Join-Path $mine 'bin\uv.exe'
  }

  function Get-Source {
    if ($Script) {
      $around = Split-Path -Parent (Split-Path -Parent $Script)
      $project = Join-Path $around 'pyproject.toml'
      if ((Test-Path $project) -and (Select-String -Quiet -Path $project -Pattern "^name = `"$tool`"")) { return $around }
    }
    if ($PUBLISHED -eq 'yes') { return $tool }
    throw "it does not stand in a checkout, and $tool is on no index yet. Tell where it is with -From. Nothing was done"
  }

  function Test-Installed { return [bool](@(Read-Program $state.Uv @('tool', 'list')) -match "^$tool ") }

  # True where it went well.
  function Invoke-Hosts([string]$Program, [string[]]$Arguments) {
    $ErrorActionPreference = 'Continue' # what it says on stderr is no error of ours
    $said = (& $Program @Arguments 2>&1 | Out-String)
    $code = $LASTEXITCODE
    Write-Host $said
    return $code -eq 0
  }

  function Add-Flux2 {
    $source = if ($From) { $From } else { Get-Source }
    $state.Step = 'looking for uv'
    $state.Uv = Find-Uv
    if (-not $state.Uv) { $state.Uv = Get-Uv }
    Say "uv: $($state.Uv)"
    $state.Step = 'looking for Python 3.11 or later'
    Invoke-Program $state.Uv @('python', 'find', '--quiet', '--no-project', '>=3.11') | Out-Null
    $state.Step = "installing $tool"
    $state.BroughtTool = -not (Test-Installed)
    Invoke-Program $state.Uv @('tool', 'install', '--quiet', '--compile-bytecode', '--force', '--reinstall-package', $tool,
      '--python', '>=3.11', $source)
    $bin = (& $state.Uv tool dir --bin)
    $program = Join-Path $bin "$tool.exe"
    Say "$tool $(Invoke-Program $program @('--version')): $program"

    # From here on there is a working tool, and nothing to take back: a host that can't be changed is told and left alone.
    $state.Step = ''
    if (-not $ToolOnly) {
      $well = Invoke-Hosts $program @('install', '--detect')
      & $program doctor
      if ($LASTEXITCODE -ne 0) { Say "doctor found what is named above; $tool works without a key in its sandbox" }
      if (-not $well) { throw "$tool is installed, but not in every host; see above" }
    }
    if (($env:PATH -split ';') -notcontains $bin) { Say "$bin is not on your PATH: `"$($state.Uv)`" tool update-shell puts it there" }
    Say 'done. It is taken back by: install.ps1 -Uninstall'
  }

  function Remove-Flux2 {
    $state.Uv = Find-Uv
    if (-not $state.Uv) { Say 'there is no uv here, so nothing that this script installed'; return }
    if (Test-Installed) {
      $program = Join-Path (& $state.Uv tool dir --bin) "$tool.exe"
      # A project's entries can be found in the folder alone that this runs in.
      $well = @('user', 'project') | ForEach-Object { Invoke-Hosts $program @('install', '--detect', '--uninstall', '--scope', $_) }
      if ($well -contains $false) {
        throw "a host still starts $tool, so it stays. Mend what is named above and try again"
      }
      Invoke-Program $state.Uv @('tool', 'uninstall', '--quiet', $tool)
      Say "$tool is gone"
    } else { Say "$tool was not installed" }
    if (Test-Path $mine) {
      if (@(Read-Program $state.Uv @('tool', 'list')) -match '^[a-z0-9]') { Say "uv stays in ${mine}: other tools were installed with it" } else {
        Invoke-Program $state.Uv @('cache', 'clean', '--quiet')
        Remove-Item -Recurse -Force $mine
        Say 'uv, which this script had brought, is gone with its cache'
      }
    }
    Say 'images, journal and key stay where they are'
  }

  try {
    if ($Uninstall) { Remove-Flux2 } else { Add-Flux2 }
  } catch {
    $told = if ($state.Step) { "stopped while $($state.Step): " } else { '' }
    # What was begun and did not end is taken back; what was there before stays.
    if ($state.Step -and $state.BroughtTool) { Read-Program $state.Uv @('tool', 'uninstall', '--quiet', $tool) }
    if ($state.Step -and $state.BroughtUv) { Remove-Item -Recurse -Force $mine -ErrorAction SilentlyContinue }
    throw "install.ps1: $told$($_.Exception.Message)."
  }
}

Install-Flux2 -From $From -ToolOnly $ToolOnly -Uninstall $Uninstall -Script $PSCommandPath
