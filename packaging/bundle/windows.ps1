# Makes, signs and checks the folder for Windows. NEVER RUN: it was written without a Windows at hand; see README.md.
#   powershell -File packaging\bundle\windows.ps1 -Engine torch -Python C:\path\of\a\relocatable\python [-Thumbprint ... -TimestampServer ...]
param(
  [ValidateSet("torch", "none")] [string]$Engine = "torch",
  [Parameter(Mandatory)] [string]$Python,
  [string]$Thumbprint,
  [string]$TimestampServer
)
$ErrorActionPreference = "Stop"
# signtool would refuse it after the whole build; and a signature without a time stamp ends with its certificate
if ([bool]$Thumbprint -ne [bool]$TimestampServer) { throw "-Thumbprint and -TimestampServer go together" }
Set-Location (Join-Path $PSScriptRoot "..\..")
$tools = "build\bundle-tools"
& "$Python\python.exe" -m venv $tools
if ($LASTEXITCODE) { throw "no virtual environment" }
& "$tools\Scripts\python.exe" -m pip install --quiet --require-hashes -r packaging\bundle\tools.txt
if ($LASTEXITCODE) { throw "the tools were not installed" }
& "$tools\Scripts\python.exe" -m pip install --quiet msgspec
if ($LASTEXITCODE) { throw "msgspec was not installed" }
$env:PYTHONPATH = "packaging;sidecar;protocol"
& "$tools\Scripts\python.exe" -m bundle.build --engine $Engine --python $Python --tools $tools
if ($LASTEXITCODE) { throw "the folder was not built" }
$folder = "dist\locara-sidecar-x86_64-pc-windows-msvc"
if ($Thumbprint) {
  $files = Get-ChildItem $folder -Recurse -Include *.exe, *.dll, *.pyd | Where-Object { (Get-AuthenticodeSignature $_).Status -ne "Valid" }
  $files | ForEach-Object {
    & signtool sign /sha1 $Thumbprint /fd SHA256 /tr $TimestampServer /td SHA256 $_.FullName
    if ($LASTEXITCODE) { throw "not signed: $_" }
  }
  # signing changes files: list their hashes anew
  & "$tools\Scripts\python.exe" -c "import sys, pathlib; from locara_sidecar.machine import bundle; bundle.write(pathlib.Path(sys.argv[1]))" $folder
  if ($LASTEXITCODE) { throw "the hashes were not listed" }
}
& "$folder\python\python.exe" -I -X utf8 -B -m locara_sidecar doctor --verify
exit $LASTEXITCODE
